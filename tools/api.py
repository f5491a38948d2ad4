"""docs/api.md from the docstrings of what `import dist_rmd` offers.

A docstring's lines of the form `name: what it means` become a list, its examples and indented formulas stay as they
are.
"""

import argparse
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dist_rmd
from dist_rmd.errors import UserError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
HEAD = """\
<!-- Made by tools/api from the docstrings: change these. -->

# Python

    import dist_rmd

The names below serve a loop or a notebook of your own. `import dist_rmd` is quick: torch is imported when a name is
first used. The examples are run by `tests/test___init__.py`.

"""
MEANING = re.compile(r"(\w+(?:, \w+)*): +(\S.*)")
"""a line of a docstring that says what a parameter, or several, means"""


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(page())


def page() -> str:
    """The whole of docs/api.md."""
    names = dist_rmd.__all__
    contents = " · ".join(f"[`{name}`](#{name.lower()})" for name in names)
    sections = [_section(name) for name in names]
    for kind in _returned():
        sections += [f"## {kind.__name__}", markdown(_doc(kind)), *_members(kind)]
    return f"{HEAD}{contents}\n\n" + "\n\n".join(sections) + "\n"


def _returned() -> list[type]:
    """The package's own classes that its functions return, each once."""
    functions = [found for name in dist_rmd.__all__ if inspect.isfunction(found := getattr(dist_rmd, name))]
    kinds = [typing.get_type_hints(function)["return"] for function in functions]
    return list(dict.fromkeys(kind for kind in kinds if getattr(kind, "__module__", "").startswith("dist_rmd.")))


def _section(name: str) -> str:
    found = getattr(dist_rmd, name)
    if inspect.ismodule(found):
        return f"## {name}\n\n{markdown(_doc(found))}\n\n" + "\n".join(_errors(found))
    parts = [f"## {name}", f"```python\n{signature(name, found)}\n```", markdown(_doc(found))]
    if inspect.isclass(found):
        parts += _members(found)
    return "\n\n".join(parts)


def _errors(module: Any) -> Iterator[str]:
    for name, kind in vars(module).items():
        if inspect.isclass(kind) and issubclass(kind, UserError):
            yield f"- `{name}`, exit code {kind.code}: {_doc(kind).splitlines()[0]}"


def _members(kind: type) -> Iterator[str]:
    """The public methods and properties that a class itself defines."""
    for name, member in vars(kind).items():
        if isinstance(member, property | functools.cached_property):
            title = f".{name}"
        elif inspect.isfunction(member) or isinstance(member, classmethod | staticmethod):
            title = signature(f".{name}", getattr(kind, name), bound=inspect.isfunction(member))
        else:
            continue
        if not name.startswith("_") and _doc(member):
            yield f"#### `{title}`\n\n{markdown(_doc(member))}"


def _doc(found: Any) -> str:
    return inspect.getdoc(found) or ""


def signature(name: str, found: Callable[..., Any], bound: bool = False) -> str:
    """`name(parameter=default, ...)`, without types, which the text below it tells; bound: without self."""
    parameters = list(inspect.signature(found).parameters.values())[bound:]
    plain = [parameter.replace(annotation=parameter.empty) for parameter in parameters]
    return f"{name}{inspect.Signature(plain)}"


def markdown(doc: str) -> str:
    """A docstring as Markdown."""
    lines: list[str] = []
    in_list = in_example = False
    for line in doc.splitlines():
        if line.startswith(">>>") and not in_example:
            lines.append("```python")
            in_example = True
        if in_example and not line:
            lines.append("```")
            in_example = False
        if in_example:
            lines.append(line)
        elif match := MEANING.fullmatch(line):
            if not in_list and lines and lines[-1]:
                lines.append("")
            lines.append(f"- `{match[1]}`: {match[2]}")
            in_list = True
        elif in_list and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            if in_list and line:
                lines.append("")
            in_list = False
            lines.append(line)
    return "\n".join([*lines, *(["```"] if in_example else [])])


if __name__ == "__main__":
    main()
