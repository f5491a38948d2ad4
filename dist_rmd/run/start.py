"""The start of a run: compares the configuration with the last start in the run folder, and records this start."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dist_rmd import __version__
from dist_rmd import config as configuration
from dist_rmd.config import Change, Config, Role, sections
from dist_rmd.errors import ConfigError
from dist_rmd.files import write_json, write_text
from dist_rmd.run import artefacts
from dist_rmd.run.folder import RunFolder, now


def changes(folder: RunFolder, config: Config, force: bool) -> list[str]:
    """Changed keys since the last start in the run folder, each as `key: old -> new`; empty at the first start.

    Raises ConfigError when a change alters what the stages learn, unless `force` is set, and always when the weights
    would not fit.  Files behind paths are compared later, by content, when a stage resumes.
    """
    if not folder.config.exists():
        return []
    before = sections.parse(folder.config)  # keys that an older version did not have get their defaults
    changed = configuration.differences(before.leaves, config.leaves)
    harmful = [change for change in changed if change.role.is_learned]
    unfit = [change for change in harmful if change.role is Role.NETWORK]
    if unfit:
        raise ConfigError(f"{folder} holds a run of another network ({_listed(unfit)}): choose another name=")
    if harmful and not force:
        raise ConfigError(
            f"{folder} holds another run ({_listed(harmful)}): choose another name=, move it away, or go on all the "
            "same with --force"
        )
    return [str(change) for change in changed]


def _listed(changes: Iterable[Change]) -> str:
    return "; ".join(map(str, changes))


def describe(
    folder: RunFolder, config: Config, world: int, device: str, resolved: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write config.yaml and env.json, and remove exit.json of an earlier start.

    resolved: see `ResolvedRun.resolved`.
    """
    environment = {
        "command": sys.argv,
        "version": __version__,
        "git": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "host": platform.node(),
        "world": world,
        "device": device,
        "slurm": {name: value for name, value in os.environ.items() if name.startswith("SLURM_JOB")},
        "started": now(),
        "resolved": dict(resolved),
    }
    folder.exit.unlink(missing_ok=True)  # first: exit.json must not outlive the start that it tells of
    write_text(folder.config, configuration.to_yaml(config))
    write_json(folder.environment, environment)


def finished(folder: RunFolder, keys: Mapping[str, str], test: str) -> bool:
    """Whether the last start finished all of these stages, and their artefacts are still there and undamaged.

    keys: stage -> artefact key.
    test: hash of the test images on which the stages must have been measured.
    """
    ended = folder.read_exit()
    if ended is None or ended.code != 0 or not keys.items() <= ended.keys.items():
        return False
    if ended.measured_on not in (None, test):
        return False
    known = {name: None if name in ended.forced else key for name, key in keys.items()}
    return all(artefacts.is_whole(folder.artefact(name), key) for name, key in known.items())


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
