"""Tells the trackers of a run, such as Weights & Biases, what metrics.jsonl is told.  Training never waits for them."""

import functools
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from dist_rmd.run.folder import RunFolder
from dist_rmd.trackers.base import Tracker

PATIENCE = 20.0
"""seconds that the end of a run waits for its trackers; torchrun kills what takes 30"""
ROOM = 10_000
"""records that a tracker may be behind"""


class Tracking:
    """The trackers of one run, by name, each called by a thread of its own.

    A tracker that raises, hangs or falls behind is told of once, in one line for `warn`, and then left out.
    """

    def __init__(self, folder: RunFolder, trackers: Mapping[str, Tracker], warn: Callable[[str], object]):
        self.folder = folder
        self._listeners = [_Listener(name, tracker, warn) for name, tracker in trackers.items()]

    def begin(self, name: str, configuration: Mapping[str, Any]) -> None:
        """Begin the run, or go on with the one that an earlier start began."""
        for listener in self._listeners:
            listener.tell(functools.partial(self._begin, listener, name, configuration))

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Show `values` (tag -> number) at the stage's optimizer step `step`."""
        for listener in self._listeners:
            listener.tell(functools.partial(listener.tracker.scalars, stage, step, dict(values)))

    def end(self, status: str) -> None:
        """End this start of the run, once all is taken in or PATIENCE is over.  status: as `Exit.status` has it."""
        until = time.monotonic() + PATIENCE
        for listener in self._listeners:
            listener.tell(functools.partial(listener.tracker.end, status))
            listener.tell(None)
        for listener in self._listeners:
            listener.finish(until)

    def _begin(self, listener: "_Listener", name: str, configuration: Mapping[str, Any]) -> None:
        self.folder.trackers.mkdir(parents=True, exist_ok=True)
        before = self.folder.read_tracker_id(listener.name)
        identity = listener.tracker.begin(name, self.folder.trackers, configuration, before)
        self.folder.write_tracker_id(listener.name, identity)


class _Listener:
    """One tracker and its thread, which makes the calls in their order."""

    def __init__(self, name: str, tracker: Tracker, warn: Callable[[str], object]):
        self.name, self.tracker, self.warn = name, tracker, warn
        self._left_out = False
        self._calls: queue.Queue[Callable[[], object] | None] = queue.Queue(ROOM)
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"tracker {name}")
        self._thread.start()

    def tell(self, call: Callable[[], object] | None) -> None:
        """Have the thread make the call; None is its last."""
        if self._left_out:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._leave_out(f"it is {ROOM} records behind")

    def finish(self, until: float) -> None:
        """Wait for the last call, to the time `until` at most."""
        if not self._left_out:
            self._thread.join(max(0.0, until - time.monotonic()))
            if self._thread.is_alive():
                self._leave_out(f"it has not taken everything in within {PATIENCE:g} s")

    def _work(self) -> None:
        for call in iter(self._calls.get, None):
            if self._left_out:
                return
            try:
                call()
            except BaseException as error:  # libraries also raise KeyboardInterrupt, which ends nothing but a thread
                said = " ".join(str(error).split())
                self._leave_out(f"{type(error).__name__}: {said}" if said else type(error).__name__)
                return

    def _leave_out(self, why: str) -> None:
        self._left_out = True
        self.warn(f"log.also: {self.name} is left out from now on ({why}); metrics.jsonl has everything")
