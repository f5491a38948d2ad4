"""Reading a configuration with the sections of every stage there is."""

from collections.abc import Sequence
from pathlib import Path

from dist_rmd import config, shipped
from dist_rmd.config import Config
from dist_rmd.registry import available, lookup


def sections() -> dict[str, type]:
    """Section name -> dataclass, over all stages."""
    return {key: kind for name in available("stages") for key, kind in lookup("stages", name).sections.items()}


def parse(file: Path | None, overrides: Sequence[str] = ()) -> Config:
    """dist_rmd.config.parse with all of them.  `file` may also be the name of a shipped one, such as rmdnet/digits."""
    return config.parse(file and shipped.find(file), overrides, sections())
