"""What numba compiles: kept for the next process, and run in threads of our own."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba.typed.typeddict  # which `uncompiled` would spoil if it were imported in there
from numpy import array_split
from numpy.typing import NDArray


def kept(function: Callable[..., None]) -> Callable[..., None]:
    """`function` compiled for threads at its first call ever: numba keeps the result beside the function's file.

    Or in the user's cache, or in NUMBA_CACHE_DIR; where there is no folder that it may write to, every process compiles
    anew.  A full disk ends the run.
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


def in_threads(kernel: Callable[..., None], threads: int, rows: Sequence[NDArray[Any]], *shared: NDArray[Any]) -> None:
    """Run `kernel` on `rows`, arrays of equal length, in parts of about equal length, one in each thread.

    Not numba's threads: some of its pools abort the process when two threads of ours are in them at the same time, or
    when a process forks.
    """
    parts = zip(*(array_split(row, threads) for row in rows), strict=True)
    if threads == 1:
        kernel(*next(parts), *shared)
    else:
        list(_pool(kernel, threads, os.getpid()).map(lambda part: kernel(*part, *shared), parts))


@functools.cache
def _pool(kernel: Callable[..., None], threads: int, process: int) -> ThreadPoolExecutor:
    """One for each kernel, or views would wait where a disk is slow; and for each process: a fork has no threads."""
    return ThreadPoolExecutor(threads, kernel.__name__)


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """In here numba leaves functions and dictionaries to Python.

    For importing FFCV, which keeps two constants of its JPEG decoder in a dictionary that numba compiles for seconds.
    """
    before = numba.config.DISABLE_JIT  # type: ignore[attr-defined]
    numba.config.DISABLE_JIT = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        numba.config.DISABLE_JIT = before  # type: ignore[attr-defined]
