"""Checkpoints that are either whole or absent.

step-00001200.pt is written under a temporary name in the same folder, synced and renamed; then step-00001200.json
with its size and SHA-256.  A file without a matching sidecar does not count, so a reader never sees half a checkpoint.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dist_rmd.errors import DataError
from dist_rmd.files import sha256, write_atomically


class Checkpoints:
    """The checkpoints of one stage in `folder`, of which the `keep` newest are kept."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: Mapping[str, Any], **facts: Any) -> Path:
        """Write `state` (plain containers and tensors) as the checkpoint of `step`; `facts` go into the sidecar."""
        path = self.folder / f"step-{step:08d}.pt"
        save_tensors(path, state)
        sidecar = {"step": step, "bytes": path.stat().st_size, "sha256": sha256(path), **facts}
        write_atomically(path.with_suffix(".json"), lambda file: file.write(json.dumps(sidecar, indent=1).encode()))
        for old in self._newest_first()[self.keep :]:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink(missing_ok=True)
        return path

    def load_newest(self) -> dict[str, Any] | None:
        """The newest valid checkpoint on the CPU, None when there is none at all.

        Broken ones are skipped with a warning.  Raises DataError when there are checkpoints and none is valid.
        """
        paths = self._newest_first()
        for path in paths:
            reason = _fault(path)
            if reason is None:
                return load_tensors(path)
            warnings.warn(f"{path}: {reason}; trying the one before", stacklevel=2)
        if paths:
            raise DataError(f"{self.folder}: none of {len(paths)} checkpoints is valid; move it away to start anew")
        return None

    def _newest_first(self) -> list[Path]:
        # A crash between the two writes leaves a file without its sidecar: it was never finished.
        paths = [path for path in self.folder.glob("step-*.pt") if path.with_suffix(".json").exists()]
        return sorted(paths, reverse=True)


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


def _fault(path: Path) -> str | None:
    try:
        sidecar = json.loads(path.with_suffix(".json").read_text())
        if path.stat().st_size != sidecar["bytes"]:
            return f"{path.stat().st_size} bytes instead of {sidecar['bytes']}"
        return None if sha256(path) == sidecar["sha256"] else "content does not match its SHA-256"
    except (OSError, ValueError, KeyError) as error:
        return f"no valid sidecar ({error})"
