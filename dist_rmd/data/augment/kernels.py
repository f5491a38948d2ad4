"""Functions that numba compiles: caches the compiled code on disk, and runs it in this package's own threads."""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numba.typed.typeddict  # imported here: a first import within `uncompiled` would leave it without compiled code
from numpy.typing import NDArray

PARTS = 8
"""parts of the work for each thread: more make the wait for the last one shorter, and cost some microseconds each"""


def kept(function: Callable[..., None]) -> Callable[..., None]:
    """`function`, compiled at its first call to run without the GIL; later processes read the code from disk.

    numba keeps the code beside the function's file, in the user's cache or in NUMBA_CACHE_DIR.  Where none of these
    folders can be written, every process compiles anew.  A full disk ends the run.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def in_threads(kernel: Callable[..., None], threads: int, rows: Sequence[NDArray[Any]], *shared: NDArray[Any]) -> None:
    """Run `kernel` on parts of `rows` (arrays of equal length), in `threads` threads: the caller's and others.

    There are more parts than threads, and a thread takes the next part when it comes free: one that loses its core to
    another process holds up its own part alone.
    The threads are not numba's: some of numba's pools abort the process when two threads enter them at the same time,
    or when the process forks.
    """
    length = len(rows[0])
    size = max(1, -(-length // (PARTS * threads)))
    starts = itertools.count(0, size)  # no two threads get the same: next() is one step under the GIL

    def work() -> None:
        while (start := next(starts)) < length:
            kernel(*(row[start : start + size] for row in rows), *shared)

    others = [_pool(kernel, threads, os.getpid()).submit(work) for _ in range(min(threads, length) - 1)]
    try:
        work()
    finally:
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()


@functools.cache
def _pool(kernel: Callable[..., None], threads: int, process: int) -> ThreadPoolExecutor:
    """The pool of the threads beside the caller's, of a kernel in a process.

    Kernels have pools of their own, so that views do not wait for a kernel that reads a slow disk.  A forked process
    needs a new pool, since a fork inherits no threads.
    """
    return ThreadPoolExecutor(threads - 1, kernel.__name__)


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Within this context numba compiles nothing: functions and dictionaries stay Python's.

    FFCV is imported within this context: it keeps two constants of its JPEG decoder in a numba dictionary, which would
    take seconds to compile.
    """
    before = numba.config.DISABLE_JIT  # type: ignore[attr-defined]
    numba.config.DISABLE_JIT = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        numba.config.DISABLE_JIT = before  # type: ignore[attr-defined]
