"""Reads a configuration with the sections of all stages.  Only here does the configuration know of plug-ins."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dist_rmd import config
from dist_rmd.config import Config, shipped
from dist_rmd.errors import ConfigError
from dist_rmd.registry import available, lookup


def sections() -> dict[str, type]:
    """All sections that stages declare: section name -> dataclass."""
    return united({name: lookup("stages", name).sections for name in available("stages")})


def united(declared: Mapping[str, Mapping[str, type]]) -> dict[str, type]:
    """Merge the sections of several stages: stage -> name -> dataclass becomes name -> dataclass.

    Stages may share a section, as `classifier` and `rgrl` share `task`.  Raises ConfigError, which names both stages,
    when two stages use one name for different dataclasses, or two names for one dataclass.
    """
    known: dict[str, tuple[str, type]] = {}
    for stage, own in declared.items():
        for name, kind in own.items():
            for other, (owner, its_kind) in known.items():
                if (name == other) != (kind is its_kind):
                    raise ConfigError(
                        f"stage {stage} declares section {name!r} as {kind.__name__}, but stage {owner} declares "
                        f"{other!r} as {its_kind.__name__}: give each section one name and one class of its own"
                    )
            known.setdefault(name, (stage, kind))
    return {name: kind for name, (_, kind) in known.items()}


def parse(file: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.  `file`: a YAML file, the name of a shipped one such as rmdnet/digits, or None."""
    return config.parse(file and shipped.find(file), overrides, sections())


def unread(config: Config, overrides: Sequence[str]) -> list[str]:
    """Warnings: one line for each key=value whose section is read by none of the run's stages."""
    read = {section for name in config.stages for section in lookup("stages", name).sections}
    known, stages = sections().keys() - read, ",".join(config.stages)
    return [
        f"{override} has no effect: none of stages=[{stages}] reads it"
        for override in overrides
        if override.partition(".")[0] in known
    ]
