"""Temporary folders that are removed when the work ends, also after a crash."""

import contextlib
import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = ".partial-"
LOCK = ".lock"
YOUNG = 60.0
"""seconds for which a new folder may lack its lock, until its owner has taken the lock"""


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end of the context.  Raises OSError.

    Folders that killed processes left in `parent` are removed first: the operating system releases the lock on a folder
    when its owner ends.
    """
    for old in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # the folder may be another user's; a later call tries again
            if _is_abandoned(old):
                shutil.rmtree(old)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent, ignore_cleanup_errors=True) as name,
        open(Path(name) / LOCK, "w") as file,
    ):
        with contextlib.suppress(OSError):  # no locks on this file system
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Path(name)


def _is_abandoned(folder: Path) -> bool:
    try:
        with open(folder / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > YOUNG
    except BlockingIOError:
        return False
    return True
