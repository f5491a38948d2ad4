"""The files of configs/, which the package brings along: "rmdnet/digits" is configs/rmdnet/digits.yaml anywhere."""

import difflib
from pathlib import Path

from dist_rmd.errors import ConfigError

FOLDER = Path(__file__).parents[1] / "configs"


def find(name: str | Path, suffix: str = ".yaml") -> Path:
    """`name` itself where there is such a file, else the shipped file of that name, with or without its suffix.

    Raises ConfigError, which lists the shipped ones, where there is neither.
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
