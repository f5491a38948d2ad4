"""Artefacts: the results of finished stages, addressed by a hash of everything that determines them.

All runs under <out> share <out>/artefacts/<stage>-<key>.pt, so one SimSiam training serves every noise setting, loss
and K.  A run's own <stage>/artefact.pt is a hard link to the shared file where the file system has links.
"""

import hashlib
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from dist_rmd.engine.checkpoint import load_tensors, save_tensors
from dist_rmd.errors import CannotCreate, DataError, WriteFailed
from dist_rmd.files import write_atomically

FORMAT = 2
ANOTHER = "of another key than its place says"
REMEDY = "starting the run that made it again makes it anew"


@dataclass(frozen=True)
class Origin:
    """Path, key and image format of an artefact."""

    path: Path
    stage: str
    key: str
    classes: tuple[str, ...]
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """mean and standard deviation of the channels R, G, B, scaled to 0..1, with which images are normalised"""
    measured_on: str | None = None
    """hash of the test images that its scores are of; None where that is not known"""
    content: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """the artefact made of another library's file, or with scores on the run's test images; None where the file is
    the artefact itself"""


def key_of(determinants: Mapping[str, Any]) -> str:
    """The key of an artefact: 16 hexadecimal digits of a hash over `determinants`, nested plain values."""
    text = json.dumps({"format": FORMAT, **determinants}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shared_path(out: Path, stage: str, key: str) -> Path:
    """The path at which all runs under `out` look for the artefact."""
    return out / "artefacts" / f"{stage}-{key}.pt"


def save(own: Path, shared: Path, artefact: Mapping[str, Any]) -> None:
    """Write the artefact to a run's `own` path, and share it with other runs at `shared`.

    A `shared` path that cannot be written is a warning only: the result itself is safe.
    """
    save_tensors(own, {"format": FORMAT, **artefact})
    try:
        adopt(shared, own)
    except (CannotCreate, WriteFailed) as error:  # the run's own file is written
        warnings.warn(f"{error}: other runs will train {artefact['stage']} again", stacklevel=2)


def keep(own: Path, artefact: Mapping[str, Any]) -> None:
    """Write the artefact to a run's `own` path alone, since other runs share it with other scores."""
    save_tensors(own, {"format": FORMAT, **artefact})


def find(own: Path, shared: Path, key: str) -> bool:
    """Whether an artefact of this key is at `shared`.  If it is missing there, a run's `own` artefact is shared again.

    A damaged file, or a shared file of another key, is renamed to *.broken, with a warning, and does not count.
    """
    for path in (own, shared):
        if path.exists() and (reason := flaw(path, key)):
            if path == own and reason == ANOTHER:  # left by an earlier configuration of the run, and undamaged
                continue
            aside = path.with_name(f"{path.name}.broken")
            os.replace(path, aside)
            warnings.warn(f"{path}: {reason}; set aside as {aside.name}, to be made again", stacklevel=2)
    if own.exists() and not shared.exists() and not flaw(own, key):
        adopt(shared, own)
    return shared.exists()


def is_whole(path: Path, key: str | None) -> bool:
    """Whether the file at `path` is an undamaged artefact of this key, or of any key with None."""
    return path.exists() and not flaw(path, key)


def flaw(path: Path, key: str | None) -> str:
    """Why the file at `path` is no undamaged artefact of this key (of any key with None); "" if it is one."""
    try:
        found = _key(path, _stamp(path))
    except (OSError, DataError) as error:
        return str(error).removeprefix(f"{path}: ").removesuffix(f"; {REMEDY}")
    return "" if key in (None, found) else ANOTHER


def adopt(own: Path, shared: Path) -> None:
    """Link the artefact at `shared` to `own`, or copy it where the file system has no hard links.

    Raises CannotCreate or WriteFailed.
    """
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        own.unlink(missing_ok=True)
        os.link(shared, own)
    except OSError:
        with open(shared, "rb") as source:
            write_atomically(own, lambda file: shutil.copyfileobj(source, file))


def load(path: Path) -> dict[str, Any]:
    """Read an artefact onto the CPU.  Raises DataError when it is missing, damaged or of another format."""
    try:
        _verify(path, _stamp(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # zipfile raises BadZipFile, EOFError, zlib.error, NotImplementedError ...
        raise DataError(f"{path}: damaged ({error}); {REMEDY}") from None
    artefact = load_tensors(path)
    if artefact.get("format") != FORMAT:
        raise DataError(f"{path}: not an artefact of format {FORMAT}")
    return artefact


def _stamp(path: Path) -> tuple[int, ...]:
    """Time, size and inode of the file: a cache key, so that a sweep reads a file once that it asks for often."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


@cache
def _verify(path: Path, _: tuple[int, ...]) -> None:
    """Compare the file with the checksums that torch.save writes and torch.load ignores."""
    with zipfile.ZipFile(path) as parts:
        if broken := parts.testzip():
            raise zipfile.BadZipFile(f"its part {broken} does not match its checksum")


@cache
def _key(path: Path, _: tuple[int, ...]) -> str | None:
    return load(path).get("key")


def origin(path: Path) -> Origin:
    """Read the `Origin` of the artefact at `path`.  Raises DataError as `load` does."""
    try:
        return _origin(path, _stamp(path))
    except OSError as error:
        raise DataError(f"{path}: no artefact of a finished stage here ({error.strerror})") from None


@cache
def _origin(path: Path, _: tuple[int, ...]) -> Origin:
    content = load(path)
    return origin_of(path, content, content["key"])


def origin_of(path: Path, content: Mapping[str, Any], key: str) -> Origin:
    """The origin that the content of an artefact or a checkpoint records."""
    return Origin(
        path, content["stage"], key, tuple(content["classes"]), content["side"],
        tuple(content["mean"]), tuple(content["std"]), content.get("measured_on"),
    )  # fmt: skip
