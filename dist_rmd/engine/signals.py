"""Requests to stop: SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP, and the death of the launcher.

The signal handler only notes the request.  The training loop looks at every optimizer step, saves, and ends the stage.
"""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
POLL, GRACE = 0.5, 8.0
"""seconds: between two looks at the launcher; from its death to the end of a rank that cannot stop by itself"""


def ignore() -> None:
    """Ignore all stop signals from now on: torchrun sends SIGTERM even to ranks that are about to exit."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Context in which stop signals do not end the process, but set `request.signal`.

    Signals that the process was started to ignore (nohup) stay ignored.  Only for the main thread.
    """

    signal = 0
    """number of the first signal received, 0 for none"""

    def __enter__(self) -> "StopRequest":
        self._before: dict[int, Any] = {}
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = self.signal or number


def _forget() -> None:
    """Restore the default handlers in a forked child, which signals must end as usual."""
    for number in SIGNALS:
        if getattr(signal.getsignal(number), "__func__", None) is StopRequest._note:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget)


def follow(launcher: int) -> None:
    """Treat the death of the parent process `launcher` as SIGTERM, and end a rank that is stuck by force."""
    threading.Thread(target=_follow, args=(launcher,), daemon=True, name="launcher watch").start()


def _follow(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
