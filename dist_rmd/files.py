"""Files that are either whole or absent."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from dist_rmd.errors import CannotCreate, WriteFailed


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it, rename it to `path` and sync the folder.

    Raises CannotCreate or WriteFailed; `path` is then as it was and nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "wb")  # noqa: SIM115 (closed by the `with` below)
    except OSError as error:
        raise CannotCreate(f"{path}: cannot be created ({error.strerror})") from None
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise write_failed(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_failed(path: Path, error: Exception) -> WriteFailed:
    """The one line for an output, a file or folder, that broke while it was written."""
    free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    reason = " ".join(str(error).split())
    return WriteFailed(f"{path}: cannot be written ({reason}; {free / 1e6:.0f} MB free on its disk)")


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
