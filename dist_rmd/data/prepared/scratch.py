"""A temporary folder that is removed when the work ends, also after a crash."""

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
"""seconds within which a folder may be without its lock, since its owner is about to take it"""


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end.  What killed processes left there goes first.  Raises OSError.

    The kernel holds a lock on each such folder for as long as its owner lives.
    """
    for old in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or a later call tries again
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
