"""Functions that numba compiles: caches the compiled code on disk, and runs it in this package's own threads."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba.typed.typeddict  # imported here: a first import within `uncompiled` would leave it without compiled code
from numpy import array_split
from numpy.typing import NDArray


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
    """Run `kernel` on `rows` (arrays of equal length) in `threads` threads, each on a part of about equal length.

    The threads are not numba's: some of numba's pools abort the process when two threads enter them at the same time,
    or when the process forks.
    """
    parts = zip(*(array_split(row, threads) for row in rows), strict=True)
    if threads == 1:
        kernel(*next(parts), *shared)
    else:
        list(_pool(kernel, threads, os.getpid()).map(lambda part: kernel(*part, *shared), parts))


@functools.cache
def _pool(kernel: Callable[..., None], threads: int, process: int) -> ThreadPoolExecutor:
    """The pool of threads of a kernel in a process.

    Kernels have pools of their own, so that views do not wait for a kernel that reads a slow disk.  A forked process
    needs a new pool, since a fork inherits no threads.
    """
    return ThreadPoolExecutor(threads, kernel.__name__)


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
