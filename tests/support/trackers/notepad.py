"""Notes all that it is told."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dist_rmd.trackers.base import Tracker

__all__ = ["Notepad"]


class Notepad(Tracker):
    """Lines of <folder>/notepad.jsonl."""

    def begin(self, name: str, folder: Path, configuration: Mapping[str, Any], identity: str | None) -> str:
        self.path = folder / "notepad.jsonl"
        self._note(name=name, configuration=configuration, identity=identity)
        return identity or "page 1"

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        self._note(stage=stage, step=step, values=values)

    def end(self, status: str) -> None:
        self._note(status=status)

    def _note(self, **what: Any) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(what) + "\n")
