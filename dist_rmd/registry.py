"""Plug-ins by file name: lookup("losses", "gce") is the one public object of dist_rmd/losses/gce.py."""

import difflib
import functools
import importlib
import pkgutil
from typing import Any

from dist_rmd.cli import extras
from dist_rmd.errors import ConfigError


def available(kind: str) -> list[str]:
    """The names that `lookup(kind, name)` accepts: the modules of dist_rmd/<kind>/, sorted.

    `base` and what begins with an underscore are not among them: these serve the others.
    """
    package = importlib.import_module(f"dist_rmd.{kind}")
    return [*_names(tuple(package.__path__))]


@functools.cache  # each configuration that is read asks for all stages
def _names(folders: tuple[str, ...]) -> list[str]:
    names = {module.name for module in pkgutil.iter_modules(folders)} - {"base"}
    return sorted(name for name in names if not name.startswith("_"))


def lookup(kind: str, name: str) -> Any:
    """The public object of dist_rmd/<kind>/<name>.py: the one name in the module's `__all__`.

    Raises ConfigError with the nearest existing name when there is no such file, and where it needs a library that is
    not installed.
    """
    names = available(kind)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(names)}"
        folder = f"dist_rmd/{kind.replace('.', '/')}"
        raise ConfigError(f"there is no {name!r} in {folder}: {hint}")
    with extras.explained():
        module = importlib.import_module(f"dist_rmd.{kind}.{name}")
    (public,) = module.__all__
    return getattr(module, public)
