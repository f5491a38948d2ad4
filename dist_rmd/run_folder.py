"""The files of a run folder that say what the run is and how it ended: config.yaml, env.json, exit.json."""

import contextlib
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from dist_rmd import __version__
from dist_rmd import config as configuration
from dist_rmd.config import Config
from dist_rmd.errors import ConfigError, UserError
from dist_rmd.files import write_atomically

HARMLESS = ("stages", "log.", "checkpoint.", "data.reader", "data.workers", "dist.timeout")
"""keys that may change between two starts of one run: they do not change what a stage learns"""


def refuse_other_run(folder: Path, config: Config) -> None:
    """A run folder belongs to one configuration.  Raises ConfigError that names what differs from the one in it."""
    path = folder / "config.yaml"
    if not path.exists():
        return
    changed = configuration.differences(configuration.read_yaml(path), configuration.to_dict(config))
    changed = [change for change in changed if not change.startswith(HARMLESS)]
    if changed:
        raise ConfigError(f"{folder} holds another run ({'; '.join(changed)}): choose another name=, or move it away")


def describe(folder: Path, config: Config, world: int, device: str) -> None:
    """Write config.yaml and env.json, and remove the outcome of an earlier start."""
    environment = {
        "command": sys.argv,
        "version": __version__,
        "git": _git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "host": platform.node(),
        "world": world,
        "device": device,
        "started": _now(),
    }
    _write(folder / "config.yaml", configuration.to_yaml(config))
    _write(folder / "env.json", json.dumps(environment, indent=1))
    (folder / "exit.json").unlink(missing_ok=True)


def outcome(folder: Path, code: int, reason: str, rank: int) -> None:
    """Write exit.json: torchrun turns every exit code but 0 into 1, so the outcome also stands here.

    The first of several ranks that fail is the cause: later ones do not overwrite it.
    """
    if (folder / "exit.json").exists():
        return
    with contextlib.suppress(UserError):  # the folder itself may be what cannot be written
        content = {"code": code, "reason": reason, "rank": rank, "ended": _now()}
        _write(folder / "exit.json", json.dumps(content, indent=1))


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
