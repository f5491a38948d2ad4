"""The files of a run folder that say what the run is and how it ended: config.yaml, env.json, exit.json."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dist_rmd import __version__, artefacts, sections
from dist_rmd import config as configuration
from dist_rmd.config import Change, Config, Role
from dist_rmd.errors import ConfigError, UserError
from dist_rmd.files import write_atomically

STATUS = {0: "done", 75: "stopped"}


def changes(folder: Path, config: Config, force: bool) -> list[str]:
    """`key: old -> new` since the folder's last start, empty at the first.

    Raises ConfigError when one of them changes what the stages learn, unless `force`d, and in any case when the weights
    would not fit.  What lies behind a path is compared by content when a stage goes on.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return []
    before = sections.parse(path)  # fills in what an older version did not have yet
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
    folder: Path, config: Config, world: int, device: str, resolved: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write config.yaml and env.json, and remove the outcome of an earlier start.

    resolved: what the result depends on beside the values in the configuration (Plan.resolved).
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
        "started": _now(),
        "resolved": dict(resolved),
    }
    (folder / "exit.json").unlink(missing_ok=True)  # first: what fails from here on is told anew
    _write(folder / "config.yaml", configuration.to_yaml(config))
    _write(folder / "env.json", json.dumps(environment, indent=1))


def outcome(folder: Path, code: int, reason: str, rank: int, **facts: Any) -> None:
    """Write exit.json: torchrun turns every exit code but 0 into 1, so the outcome also stands here.

    The first of several ranks that fail is the cause: later ones do not overwrite it.
    """
    if (folder / "exit.json").exists():
        return
    with contextlib.suppress(UserError):  # the folder itself may be what cannot be written
        status = STATUS.get(code, "failed")
        content = {"status": status, "code": code, "reason": reason, "rank": rank, "ended": _now(), **facts}
        _write(folder / "exit.json", json.dumps(content, indent=1))


def finished(folder: Path, keys: dict[str, str]) -> bool:
    """The last start trained all of these stages, given by name and key, to their ends, and they are still there."""
    try:
        ended = json.loads((folder / "exit.json").read_text())
    except (OSError, ValueError):
        return False
    if ended.get("code") != 0 or not keys.items() <= ended.get("keys", {}).items():
        return False
    known = {name: None if name in ended.get("forced", []) else key for name, key in keys.items()}
    return all(artefacts.is_whole(folder / name / "artefact.pt", key) for name, key in known.items())


def places(folder: Path, stages: Iterable[str]) -> list[Path]:
    """The folders in which a run of these stages leaves files, some of them only at its end."""
    own = (place for stage in stages for place in (folder / stage / "checkpoints", folder / "tb" / stage))
    return [folder, folder / "logs", folder / "figures", *own]


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
