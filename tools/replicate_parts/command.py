"""Programs with a time limit, which take nobody along: they end with this process, and their children with them."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOOK = 0.5
"""seconds between two looks at a program"""
GRACE = 10.0
"""seconds from SIGTERM, at which `train` saves, to the end"""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    """its exit code; minus the number of the signal that ended it"""
    seconds: float
    why: str = ""
    """"limit", "stopped" or "enough" where it was ended from here"""


def run(
    argv: Sequence[str],
    log: Path,
    limit: float,
    look: Callable[[], bool] = lambda: False,
    stopped: Callable[[], bool] = lambda: False,
) -> Ended:
    """Run a program from the project's root, its output appended to `log`, for `limit` seconds at most.

    look: called while it runs; True says that it has done enough, and it is killed.  stopped: True ends it early, with
    the chance to save that it gets at its limit, too.
    """
    began = time.monotonic()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    why = ""
    try:
        while not why:
            try:
                process.wait(LOOK)
                break
            except subprocess.TimeoutExpired:
                spent = time.monotonic() - began
                why = "enough" if look() else "stopped" if stopped() else "limit" if spent > limit else ""
        if why in ("stopped", "limit"):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
        process.wait()
    look()
    return Ended(process.returncode, time.monotonic() - began, why)


_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    """In the child: SIGTERM when this process dies, however it dies."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
