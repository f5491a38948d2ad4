"""Shipped configurations: in any folder, the name "rmdnet/digits" stands for configs/rmdnet/digits.yaml."""

import difflib
from pathlib import Path

from dist_rmd.errors import ConfigError

FOLDER = Path(__file__).parents[1] / "configs"


def find(name: str | Path, suffix: str = ".yaml") -> Path:
    """The file `name`, or else the shipped file of this name, with or without its suffix.

    Raises ConfigError, which lists the shipped files, when neither exists.
    """
    path = Path(name)
    if path.exists():
        return path
    names = {file.relative_to(FOLDER).with_suffix("").as_posix(): file for file in sorted(FOLDER.glob(f"*/*{suffix}"))}
    wanted = path.with_suffix("").as_posix() if path.suffix == suffix else path.as_posix()
    if wanted in names:
        return names[wanted]
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(f"{name}: no such file, and none that is shipped: {hint}Shipped are {', '.join(names)}")
