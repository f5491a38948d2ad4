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
    """work(0), ..., work(count - 1), in this order.

    A thread that hangs, in a read that never returns, keeps nobody else: waiting for its result can be interrupted by
    a signal, and the process ends without it, which threads of an Executor do not allow.
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
