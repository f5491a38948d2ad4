"""Other processes that keep cores busy while something is measured, and only then."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_WORK = """
import os, select
while order := os.read(0, 1):
    while order == b"+" and not select.select([0], [], [], 0)[0]:
        sum(range(1000))
"""
"""computes from "+" to the next order; ends where there is nobody left to give orders, however that came about"""


class Busy:
    """`processes` processes, bound to no core, each of which computes without a pause within `with busy:`.

    They are idle otherwise.  `close` ends them; without it they end with this process, even if that is killed.
    """

    def __init__(self, processes: int):
        # In a session of their own, so that Ctrl-C reaches this process alone.
        self.processes = [
            subprocess.Popen([sys.executable, "-S", "-c", _WORK], stdin=subprocess.PIPE, start_new_session=True)
            for _ in range(processes)
        ]

    def __enter__(self) -> None:
        self._order(b"+")

    def __exit__(self, *error: object) -> None:
        self._order(b"-")

    def close(self) -> None:
        """End the processes, and wait for their end."""
        for process in self.processes:
            process.kill()
            process.wait()

    def _order(self, order: bytes) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(order)
            process.stdin.flush()


@contextmanager
def busy(processes: int) -> Iterator[Busy]:
    """`Busy`, closed at the end of the block, whatever ends the block."""
    found = Busy(processes)
    try:
        yield found
    finally:
        found.close()
