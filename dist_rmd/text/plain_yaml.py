"""YAML without surprises.

A key given twice is an error.  A plain scalar becomes a number, a truth value or null only if writing the value gives
the same text again.  0123, 12:30:00, 2024-01-01, 1_1, 1.10 and yes therefore stay texts; the type of the key decides
later how to read such a text (config/key_types.py).
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from dist_rmd.errors import ConfigError, UserError
from dist_rmd.text.reader import read_text

NOTHING = ("", "~", "null")
PLAIN = ("bool", "int", "float", "null", "timestamp")  # what YAML makes of scalars that are not in quotes
FOREIGN = re.compile("[\ud800-\udfff]")


class GivenTwice(yaml.YAMLError):
    """One mapping has a key twice, of which only one would count."""


class _Loader(yaml.SafeLoader):
    pass


def _scalar(_: yaml.Loader, node: yaml.ScalarNode) -> Any:
    if node.value in NOTHING:
        return None
    try:
        value = json.loads(node.value)
    except ValueError:
        return node.value
    return value if spelled(value) == node.value else node.value


for kind in PLAIN:
    _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _scalar)


def spelled(value: Any) -> str:
    """The text that a scalar was made of: true, null, 7, 0.1."""
    return value if isinstance(value, str) else json.dumps(value)


def load(text: str) -> Any:
    """The content of a YAML document.  Raises yaml.YAMLError, of a key given twice GivenTwice."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, "", set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def read(path: Path, refusal: type[UserError] = ConfigError) -> Any:
    """The content of a YAML file.  Raises `refusal`, in one line that names the file."""
    text = read_text(path, refusal)
    if found := FOREIGN.search(text):
        line = text[: found.start()].count("\n") + 1
        raise refusal(f"{path}: line {line} holds a byte that is no UTF-8; save it as UTF-8")
    try:
        return load(text)
    except GivenTwice as error:
        raise refusal(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise refusal(f"{path}: not valid YAML: {reason}") from None


def _check(node: yaml.Node, place: str, above: set[int]) -> None:
    """Raise YAMLError for a key given twice anywhere in `node`, and for a node that holds itself (by an alias)."""
    if id(node) in above:
        raise yaml.YAMLError(f"{place or 'the document'} holds itself")
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item, place, above | {id(node)})
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = f"{place}{key.value}", key.start_mark.line + 1
                if name in lines:
                    where = f"line {line}" if line == lines[name] else f"lines {lines[name]} and {line}"
                    raise GivenTwice(f"key {name!r} is given twice ({where}), and only one would count")
                lines[name] = line
                _check(value, f"{name}.", above | {id(node)})
