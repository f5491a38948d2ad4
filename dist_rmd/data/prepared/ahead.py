"""Runs work in a few threads, slightly ahead of the consumer of the results."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
AHEAD = 4
"""tasks begun for each thread before the first result is taken"""


def ahead(work: Callable[[int], T], count: int, threads: int) -> Iterator[T]:
    """Yield work(0), ..., work(count - 1) in this order, computed in `threads` threads.

    A thread may hang in a read that never returns.  A signal still interrupts the wait for the thread's result, and the
    process can end without the thread; the threads of an Executor allow neither.
    """
    tasks: queue.SimpleQueue[tuple[int, Future[T]] | None] = queue.SimpleQueue()
    waiting: deque[Future[T]] = deque()

    def toil() -> None:
        while task := tasks.get():
            number, result = task
            try:
                result.set_result(work(number))
            except BaseException as error:
                result.set_exception(error)

    for _ in range(threads):
        threading.Thread(target=toil, daemon=True).start()
    try:
        for number in range(count):
            waiting.append(Future())
            tasks.put((number, waiting[-1]))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        while not tasks.empty():
            tasks.get()
        for _ in range(threads):
            tasks.put(None)
