"""Files that are either whole or absent."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
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
    except (OSError, RuntimeError) as error:
        raise write_failed(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Raise CannotCreate where no file could be made in `folder`, whether it is there yet or not.  Writes nothing."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not place.is_dir():
        reason = "a link to a place that is not there" if not place.exists() else os.strerror(errno.ENOTDIR)
    elif os.statvfs(place).f_flag & os.ST_RDONLY:
        reason = os.strerror(errno.EROFS)
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EACCES)
    else:
        return
    raise CannotCreate(f"{folder}: cannot be written ({'' if place == folder else f'{place}: '}{reason})")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, as `write_atomically` does."""
    write_text(path, json.dumps(content, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(text.encode()))


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in `folder`; those of other live processes stay.

    Not to be called while this process writes into `folder`: a file with its number is taken for that of an earlier
    process, since containers give every start the same number.
    """
    for path in folder.glob(".*.tmp"):
        writer = path.name.split(".")[-2]
        if writer.isdecimal() and not _is_another_live_process(int(writer)):
            with suppress(OSError):  # a later call tries again
                path.unlink()


def _is_another_live_process(number: int) -> bool:
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def write_failed(path: Path, error: Exception) -> WriteFailed:
    """The one line for an output, a file or folder, that broke while it was written."""
    # torch.save raises a RuntimeError about positions when the disk is full; what the system said is its context.
    cause = error.__context__ if isinstance(error.__context__, OSError) else error
    named = getattr(cause, "filename2", None) or getattr(cause, "filename", None)
    if named and Path(os.fsdecode(named)).parent not in (path, path.parent):
        path = Path(os.fsdecode(named))  # another file, perhaps on another disk, than the one that was to be written
    reason = getattr(cause, "strerror", None) or " ".join(str(cause).split())
    disk = next(place for place in (path, *path.absolute().parents) if place.is_dir())
    return WriteFailed(
        f"{path}: cannot be written ({reason}; {shutil.disk_usage(disk).free / 1e6:.0f} MB free on its disk)"
    )


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
