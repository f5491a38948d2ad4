"""Reads a configuration: YAML, then key=value overrides, into frozen dataclasses.

jsonargparse knows the keys, their types and their help (from the dataclasses and the texts under their fields).  It
reads no values: its time grows with the square of the number of keys, and its errors are long.  A wrong key, type or
value is one line that names the key, and no work has begun by then.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, set_parsing_settings

from dist_rmd.config.key_types import EncoderName, fit, from_words
from dist_rmd.config.roles import plain
from dist_rmd.config.schema import Config, Run, to_dict
from dist_rmd.errors import ConfigError
from dist_rmd.registry import available
from dist_rmd.text import plain_yaml

set_parsing_settings(docstring_parse_attribute_docstrings=True)

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""the first is libyaml's, which writes the same and is ten times as fast"""


def parse(file: Path | None, overrides: Sequence[str], sections: Mapping[str, type]) -> Config:
    """Read a YAML file (only defaults when None), apply `key=value` overrides, and check all keys and values.

    sections: section name -> dataclass, of all stages.
    Raises ConfigError: one line that names the key and the file, or the command line, that gave it.
    """
    checker, keys = _parser(tuple(sections.items()))
    tree: dict = {}
    origins: dict[str, str] = {}  # key -> where it was given, for error messages
    for key, value in _leaves(read_yaml(file)) if file else ():
        if key in keys.groups and value in (None, {}):
            continue  # a section without keys
        keys.check(key, str(file))
        if key in origins:
            raise ConfigError(f"{file}: key {key!r} is given twice, once within its section and once with dots")
        origins[key] = str(file)
        _put(tree, key, value)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} on the command line: expected one YAML file and key=value overrides")
        keys.check(key, "the command line")
        origins[key] = "the command line"
        _put(tree, key, from_words(key, text, keys.hint(key)))
    _check_nulls(tree, checker)
    keys.fit(tree, origins)
    try:
        of_stages: dict = {name: _made(section, tree.pop(name, {})) for name, section in sections.items()}
        return _made(Config, {**tree, "sections": of_stages})
    except ConfigError as error:
        places = dict.fromkeys(origins.values())  # each place once, in order
        raise ConfigError(f"{error} (from {' and '.join(places)})") from None


def repeated(overrides: Sequence[str]) -> list[str]:
    """Warnings: one line for each key=value that a later key=value replaces (the same key, or the table above it)."""
    lost: dict[str, str] = {}
    standing: list[str] = []
    for override in overrides:
        key = override.partition("=")[0]
        replaced = [before for before in standing if f"{before.partition('=')[0]}.".startswith(f"{key}.")]
        lost |= dict.fromkeys(replaced, override)
        standing = [*(before for before in standing if before not in replaced), override]
    gone = {before: after for before, after in lost.items() if before not in standing}
    return [f"{before} has no effect: {after} comes after it" for before, after in gone.items()]


def help_text(sections: Mapping[str, type]) -> str:
    """The text of `train --help` for keys: default, type and meaning of every key, by section."""
    lines = []
    checker, _ = _parser(tuple(sections.items()))
    for group in checker._action_groups:
        keys = [action for action in group._group_actions if hasattr(action, "_typehint")]
        lines += ["", f"{group.title}"] if keys else []
        for key in keys:
            default = yaml.safe_dump(plain(key.default), default_flow_style=True).splitlines()[0]
            lines += [f"  {key.dest}={default}  ({_type_name(key._typehint)})", f"      {key.help}"]
    return "\n".join(lines)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(get_args(hint))
    if hint is EncoderName:
        return " | ".join(available("models.encoders"))
    names = [getattr(part, "__name__", str(part)).replace("NoneType", "null") for part in get_args(hint) or (hint,)]
    return {tuple: f"list of {names[0]}", dict: "name: value"}.get(get_origin(hint), " | ".join(names))


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML that `parse` reads back to the same values."""
    return yaml.dump(to_dict(config), Dumper=DUMPER, sort_keys=False)


def _made(kind: Any, given: Mapping[str, Any]) -> Any:
    """The dataclass `kind` with the `given` values, and its defaults; those of its own sections are mappings.

    Raises ConfigError for values that contradict each other.
    """
    nested = {field.name: field.type for field in dataclasses.fields(kind) if dataclasses.is_dataclass(field.type)}
    return kind(**{name: _made(nested[name], value) if name in nested else value for name, value in given.items()})


def read_yaml(file: Path) -> dict:
    """Read a YAML file into nested dicts.  Raises ConfigError when it cannot be read or is not a mapping."""
    tree = plain_yaml.read(file)
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else type(tree).__name__
        raise ConfigError(f"{file}: expected `key: value` lines, got {found}")
    return tree


def _leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested dicts into dotted keys and values; an empty dict counts as a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _items(tree: Mapping, prefix: str = "") -> list[tuple[str, Any]]:
    result: list[tuple[str, Any]] = []
    for key, value in tree.items():
        result += _items(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return result


class _Keys:
    """The keys that a jsonargparse parser knows, and their types."""

    def __init__(self, checker: ArgumentParser):
        known = [action.dest for action in checker._actions]
        self.groups = {name[:place] for name in known for place, letter in enumerate(name) if letter == "."}
        self.leaves = [name for name in known if name not in self.groups]
        self.hints = {action.dest: getattr(action, "_typehint", None) for action in checker._actions}
        # Keys below a table are free, such as loss.options.q: the hyper-parameters of a plug-in are not known here.
        self.tables = {f"{name}.": inner for name, hint in self.hints.items() if (inner := _inside_table(hint))}

    def check(self, key: str, where: str) -> None:
        """Raise ConfigError, which suggests the nearest known key, when `key` is unknown or a section."""
        if key in self.leaves or key.startswith(tuple(self.tables)):
            return
        if key in self.groups:
            inside = ", ".join(name for name in self.leaves if name.startswith(f"{key}."))
            raise ConfigError(f"{key!r} in {where} is a section, and takes no value itself: it has {inside}")
        near = difflib.get_close_matches(key, self.leaves, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "`--help` lists all keys"
        raise ConfigError(f"unknown key {key!r} in {where}: {hint}")

    def hint(self, key: str) -> Any:
        """The type of a key, also of a key within a table."""
        return next((inner for table, inner in self.tables.items() if key.startswith(table)), self.hints.get(key))

    def fit(self, tree: dict, origins: Mapping[str, str], prefix: str = "") -> None:
        """Convert all values of a nested dict to their keys' types, in place.

        origins: key -> where it was given.  Raises ConfigError, which names this place.
        """
        for name, value in tree.items():
            key = f"{prefix}{name}"
            if key in self.groups:
                self.fit(value, origins, f"{key}.")
                continue
            try:
                tree[name] = fit(key, value, self.hints[key])
            except ConfigError as error:
                places = [place for given, place in origins.items() if f"{given}.".startswith(f"{key}.")]
                raise ConfigError(f"{error} (from {' and '.join(dict.fromkeys(places))})") from None


@cache  # building a parser takes long, and a sweep reads hundreds of configurations
def _parser(sections: tuple[tuple[str, type], ...]) -> tuple[ArgumentParser, _Keys]:
    checker = ArgumentParser(exit_on_error=False)
    checker.add_class_arguments(Run)
    for name, section in sections:
        checker.add_class_arguments(section, name)
    return checker, _Keys(checker)


def _inside_table(hint: Any) -> Any:
    """The type of the values of a table type; None when `hint` is no table type."""
    tables = [part for part in (hint, *get_args(hint)) if get_origin(part) is dict]
    return get_args(tables[0])[1] if tables else None


def _check_nulls(tree: Mapping, checker: ArgumentParser) -> None:
    """Raise ConfigError for a null, unless the key's default is null: jsonargparse would accept null for any type."""
    known = {action.dest for action in checker._actions}  # keys within a table are unknown, and have no default
    for key, value in _items(tree):
        if value is None and (key not in known or checker.get_default(key) is not None):
            raise ConfigError(f"key {key!r} cannot be null")


def _put(tree: dict, key: str, value: Any) -> bool:
    """Set a dotted key of a nested dict.  Returns whether the key had a value before."""
    *path, last = key.split(".")
    for part in path:
        child = tree.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(f"key {key!r}: {part} is given as {child!r}, so it has no {last}")
        tree = child
    given = last in tree
    tree[last] = value
    return given
