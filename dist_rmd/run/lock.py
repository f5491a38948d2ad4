"""The lock of a run folder: only one process at a time writes there.

The kernel releases the lock when the process ends, so a killed run leaves no lock behind.  The file run.lock stays; it
names the process that writes, or wrote last.
"""

import contextlib
import fcntl
import json
import os
import platform
import warnings
from collections.abc import Iterator

from dist_rmd.errors import CannotCreate
from dist_rmd.run.folder import RunFolder, now


@contextlib.contextmanager
def run_lock(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder's lock.  Raises CannotCreate, which names the holder, when another process holds it."""
    path = folder.lock
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 (closed by the `with` below)
    except OSError as error:
        raise CannotCreate(f"{path}: cannot be created ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CannotCreate(
                f"{folder}: another run is writing here ({file.read()}): wait for it, stop it, or choose another name="
            ) from None
        except OSError as error:
            warnings.warn(f"{path}: no locks here ({error.strerror}): see that no other run writes there", stacklevel=2)
        file.truncate(0)
        owner = {"host": platform.node(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
        json.dump(owner | {"since": now()}, file)
        file.flush()
        yield


def is_locked(folder: RunFolder) -> bool:
    """Whether another process holds the lock."""
    try:
        with open(folder.lock) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or no locks on this file system
        return False
    return False
