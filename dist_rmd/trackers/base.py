"""What a tracker gives: a service, such as Weights & Biases, that shows the curves of many runs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Tracker(ABC):
    """One run in a tracker.  A thread of its own makes all calls: these may be slow, and may raise anything."""

    @abstractmethod
    def begin(self, name: str, folder: Path, configuration: Mapping[str, Any], identity: str | None) -> str:
        """Begin the run `name`, or go on with it, and return the tracker's id of it.

        folder: for files of the tracker's own; it exists.
        configuration: all keys, nested, as plain containers.
        identity: what this method returned at an earlier start of the same run; None at the first one.
        """

    @abstractmethod
    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Take in `values` (tag -> number) of the stage at its optimizer step `step`."""

    @abstractmethod
    def end(self, status: str) -> None:
        """End this start of the run: `done`, `stopped` (to go on later) or `failed`."""
