"""Checkpoints that are either whole or absent.

    step-00001200.pt      torch.save of plain containers and tensors
    step-00001200.json    step, bytes, sha256, score and other facts; written last

Each of the two is written under a temporary name in the same folder, synced and renamed, and the folder is synced
before the next begins.  The sidecar finishes a checkpoint: a file without one does not count, and one that does not
match its sidecar is broken.  What is no longer needed is deleted after that.

No file is ever overwritten.  A step that is saved again becomes step-00001200.2.pt with a sidecar of its own, and the
earlier one is deleted when that is finished; under one name, the new file would for a moment stand beside the old
sidecar, and a crash in that moment would cost both.
"""

import copy
import json
import math
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_rmd.errors import DataError
from dist_rmd.files import remove_leftovers, sha256, write_atomically, write_json

NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?\.(?:pt|json)")


class Checkpoints:
    """The checkpoints of one stage in `folder`, to which one process at a time writes.

    Kept are the `keep` >= 1 newest, without those that `load_newest` found broken, and the one with the best score.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self.keep = keep
        self._broken: set[Path] = set()
        self._thread = futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: futures.Future[None] | None = None

    def save(self, step: int, state: Mapping[str, Any], score: float | None = None, **facts: Any) -> None:
        """Copy `state` to the CPU as it is now, and write it in the background; a checkpoint of `step` is replaced.

        state: nested dicts, lists and tuples of tensors on any device, numbers, strings, bytes and None; TypeError for
        anything else, since it could not be loaded again.  score: higher is better, NaN counts as none.  `facts` go
        into the sidecar too.

        Waits for the previous save first, and raises its error like `wait`.
        """
        self.wait()
        facts |= {"step": step, "score": None if score is None or math.isnan(score) else float(score)}
        self._pending = self._thread.submit(self._write, step, _copied_to_cpu(dict(state), "state"), facts)

    def wait(self) -> None:
        """Return when all that was saved is on the disk.  Raises CannotCreate or WriteFailed if it is not."""
        if self._pending is None:
            return
        futures.wait([self._pending])  # an interrupt here leaves it pending
        finished, self._pending = self._pending, None
        finished.result()

    def load_newest(self) -> dict[str, Any] | None:
        """The newest valid checkpoint on the CPU, None when none was ever finished.

        Broken and unfinished ones are skipped with a warning; the next save deletes the broken ones.  Raises DataError
        when there are finished checkpoints and none is valid.
        """
        self.wait()
        finished = self._finished()
        for path in self._begun():
            try:
                if path in finished:
                    return _load(path)
                if path.exists():
                    warnings.warn(f"{path}: skipped, it has no .json and so was never finished", stacklevel=2)
            except DataError as error:
                warnings.warn(f"{error}; skipped", stacklevel=2)
                self._broken.add(path)
        if finished:
            raise DataError(f"{self.folder}: none of {len(finished)} checkpoints is valid; move it away to start anew")
        return None

    def best(self) -> tuple[int, float] | None:
        """Step and score of the checkpoint with the highest score, the earliest of several; None without any score."""
        self.wait()
        path = self._best()
        return None if path is None else (_order(path)[0], _sidecar(path)["score"])

    def load_best(self) -> dict[str, Any]:
        """The best checkpoint on the CPU.  Raises DataError when there is none or it is broken."""
        self.wait()
        path = self._best()
        if path is None:
            raise DataError(f"{self.folder}: no checkpoint with a score")
        return _load(path)

    def _write(self, step: int, state: dict[str, Any], facts: dict[str, Any]) -> None:
        remove_leftovers(self.folder)
        revision = 1 + max((_order(path)[1] for path in self._begun() if _order(path)[0] == step), default=0)
        path = self.folder / (f"step-{step:08d}.pt" if revision == 1 else f"step-{step:08d}.{revision}.pt")
        self._broken.discard(path)  # an earlier file of this name, deleted since
        save_tensors(path, state)
        # A second reading: the file is in the page cache, and hashing while writing was measured to take as long.
        sidecar = facts | {"bytes": path.stat().st_size, "sha256": sha256(path)}
        write_json(path.with_suffix(".json"), sidecar)
        self._prune(step)

    def _prune(self, step: int) -> None:
        """Delete what is not needed now that `step` has been saved.

        Of the checkpoints up to `step`, which is valid, `keep` stay.  Later ones were found broken, or are none of
        our business.
        """
        sound = self._sound()
        needed = {*[path for path in sound if _order(path)[0] <= step][: self.keep], self._best()}
        for path in self._begun():
            if path in self._broken or (_order(path)[0] <= step and path not in needed):
                try:
                    path.unlink(missing_ok=True)
                    path.with_suffix(".json").unlink(missing_ok=True)
                except OSError as error:
                    warnings.warn(
                        f"{path}: cannot be deleted ({error.strerror}); the next save tries again", stacklevel=1
                    )

    def _best(self) -> Path | None:
        scored = []
        for path in self._sound():
            try:
                score = _sidecar(path).get("score")
            except DataError:
                continue
            if score is not None:
                scored.append((score, -_order(path)[0], path))
        return max(scored)[2] if scored else None

    def _sound(self) -> list[Path]:
        """The checkpoints not found broken, newest first; of a step saved twice the later one."""
        by_step: dict[int, Path] = {}
        for path in self._finished():
            if path not in self._broken:
                by_step.setdefault(_order(path)[0], path)
        return list(by_step.values())

    def _finished(self) -> list[Path]:
        return [path for path in self._begun() if path.exists() and path.with_suffix(".json").exists()]

    def _begun(self) -> list[Path]:
        """The .pt names of which the .pt or the .json exists, newest first."""
        names = {path.with_suffix(".pt") for path in self.folder.glob("step-*") if NAME.fullmatch(path.name)}
        return sorted(names, key=_order, reverse=True)


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """torch.save that is atomic: `path` holds all of `content`, or what it held before."""
    write_atomically(path, lambda file: torch.save(dict(content), file))


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what `save_tensors` wrote, on the CPU.  Code inside the file never runs.  Raises DataError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, BadZipFile ... for broken files
        raise DataError(f"{path}: not readable as tensors and plain containers ({type(error).__name__})") from None


def _load(path: Path) -> dict[str, Any]:
    """The checkpoint, after comparing it with its sidecar.  Raises DataError."""
    sidecar = _sidecar(path)
    try:
        size = path.stat().st_size
        if size != sidecar["bytes"]:
            raise DataError(f"{path}: {size} bytes instead of {sidecar['bytes']}")
        if sha256(path) != sidecar["sha256"]:
            raise DataError(f"{path}: content does not match its SHA-256")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return load_tensors(path)


def _sidecar(path: Path) -> dict[str, Any]:
    """Read the facts recorded beside a checkpoint.  Raises DataError."""
    try:
        sidecar = json.loads(path.with_suffix(".json").read_text())
        if {"bytes", "sha256"} <= sidecar.keys():
            return sidecar
        raise ValueError("bytes or sha256 is missing")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: no valid .json beside it ({error})") from None


def _order(path: Path) -> tuple[int, int]:
    """(step, how many times it had been saved) from a checkpoint's name: larger is newer."""
    match = NAME.fullmatch(path.name)
    assert match
    return int(match[1]), int(match[2] or 1)


def _copied_to_cpu(value: Any, where: str) -> Any:
    """A copy that shares no memory with `value`; `where` it stands in the state goes into the error."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if type(value) in (dict, OrderedDict):
        copied = copy.copy(value)  # also keeps what a state_dict knows about its modules' versions
        for key in value:
            copied[key] = _copied_to_cpu(value[key], f"{where}[{key!r}]")
        return copied
    if type(value) in (list, tuple):
        return type(value)(_copied_to_cpu(item, f"{where}[{i}]") for i, item in enumerate(value))
    if type(value) in (bool, int, float, str, bytes, type(None)):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, neither a tensor nor a plain container, number or string")
