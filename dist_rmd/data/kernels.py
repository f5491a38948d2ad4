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
    """`function` compiled for threads, at its first call ever: numba keeps the result beside the file that defines it.

    Or in the user's cache (docs of NUMBA_CACHE_DIR); where it can write to neither, every process compiles anew.
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
        list(_pool(threads, os.getpid()).map(lambda part: kernel(*part, *shared), parts))


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """A fork has none of its parent's threads: every process has a pool of its own."""
    return ThreadPoolExecutor(threads, "kernels")


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """In here numba leaves functions and dictionaries to Python.

    For importing FFCV, which keeps two constants of its JPEG decoder in a dictionary that numba compiles for 4 s.
    """
    before = numba.config.DISABLE_JIT  # type: ignore[attr-defined]
    numba.config.DISABLE_JIT = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        numba.config.DISABLE_JIT = before  # type: ignore[attr-defined]
