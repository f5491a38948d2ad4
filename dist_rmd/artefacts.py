"""Results of finished stages, found again by what determines them.

<out>/artefacts/<stage>-<key>.pt is shared by all runs under <out>: the key is a hash of everything that the stage's
result depends on, so one SimSiam run serves every noise setting, loss and K.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dist_rmd.engine.checkpoint import load_tensors, save_tensors
from dist_rmd.errors import DataError

FORMAT = 2


@dataclass(frozen=True)
class Origin:
    """Where an artefact is, and what it was made from."""

    path: Path
    stage: str
    key: str
    classes: tuple[str, ...]
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """of the channels R, G, B, scaled to 0..1: how its images were normalised"""


def key_of(determinants: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that stand for `determinants`, a tree of plain values."""
    text = json.dumps({"format": FORMAT, **determinants}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shared_path(out: Path, stage: str, key: str) -> Path:
    """Where all runs under `out` look for the artefact."""
    return out / "artefacts" / f"{stage}-{key}.pt"


def save(own: Path, shared: Path, artefact: Mapping[str, Any]) -> None:
    """Write the artefact to a run's `own` path and make it known to other runs at `shared`."""
    save_tensors(shared, {"format": FORMAT, **artefact})
    adopt(own, shared)


def publish(own: Path, shared: Path, key: str) -> None:
    """Make a run's `own` artefact of this key known at `shared`, should it not be there (any more)."""
    if own.exists() and not shared.exists() and load(own)["key"] == key:
        adopt(shared, own)


def adopt(own: Path, shared: Path) -> None:
    """Give the artefact at `shared` the name `own` too: a hard link, or a copy where the file system has none."""
    own.parent.mkdir(parents=True, exist_ok=True)
    own.unlink(missing_ok=True)
    try:
        os.link(shared, own)
    except OSError:
        shutil.copyfile(shared, own)


def load(path: Path) -> dict[str, Any]:
    """Read an artefact onto the CPU.  Raises DataError when it is missing, broken or of another format."""
    artefact = load_tensors(path)
    if artefact.get("format") != FORMAT:
        raise DataError(f"{path}: not an artefact of format {FORMAT}")
    return artefact


def origin(path: Path) -> Origin:
    """What the artefact at `path` says of itself.  Raises DataError as `load` does."""
    try:
        return _origin(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: no artefact of a finished stage here ({error.strerror})") from None


@cache  # a sweep asks hundreds of times
def _origin(path: Path, _: int) -> Origin:
    content = load(path)
    return Origin(
        path, content["stage"], content["key"], tuple(content["classes"]), content["side"],
        tuple(content["mean"]), tuple(content["std"]),
    )  # fmt: skip
