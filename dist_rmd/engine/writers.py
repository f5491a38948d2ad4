"""Writers of curves and pictures: metrics.jsonl, TensorBoard and trackers.  Only rank 0 writes."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dist_rmd.engine.board import Board
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.tracking import Tracking
from dist_rmd.errors import CannotCreate, WriteFailed
from dist_rmd.files import write_text
from dist_rmd.run.folder import RunFolder


class Writers:
    """Scalars and pictures of one stage: lines of <folder>/metrics.jsonl and the TensorBoard run <folder>/tb/<stage>.

    `open` comes first, `close` last.  tracking: the run's trackers, which get the scalars as well.
    """

    def __init__(self, folder: RunFolder, stage: str, rank: int, tracking: Tracking | None = None):
        self.folder, self.stage, self.tracking = folder, stage, tracking
        self.active = rank == 0
        self.path = folder.metrics

    def open(self, resumed_at: Clock) -> None:
        """Open for appending.  Records after `resumed_at` are removed first, so that each step is written once."""
        if not self.active:
            return
        self._forget_after(resumed_at)
        try:
            self.file = open(self.path, "a", buffering=1)  # noqa: SIM115 (by the line; closed in close)
            self.board = Board(self.folder.board(self.stage), resumed_at.step, self._since)
        except OSError as error:
            raise CannotCreate(f"{self.folder}: cannot write metrics ({error.strerror})") from None
        self._step = resumed_at.step

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        """Write `values` (tag -> number) at optimizer step clock.step."""
        if not self.active or not values:
            return
        record = {"stage": self.stage, "epoch": clock.epoch, "step": clock.step, **values}
        with self._writing():
            self.file.write(json.dumps(record) + "\n")
        self._step = clock.step
        self.board.scalars(record)
        if self.tracking:
            self.tracking.scalars(self.stage, clock.step, values)

    def images(self, clock: Clock, tag: str, pixels: Tensor) -> None:
        """Write n pictures as one, eight in a row: n x 3 x H x W in [0, 1]."""
        if self.active:
            self.board.images(tag, pixels, clock.step)

    def flush(self) -> None:
        """Wait until everything is in the files.  Called before a checkpoint: a resumed run continues after it."""
        if self.active:
            with self._writing():
                os.fsync(self.file.fileno())
            self.board.flush(self._step)

    def close(self) -> None:
        """Flush and close both."""
        if self.active:
            self.board.close()
            with self._writing():
                self.file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteFailed(f"{self.folder}: metrics cannot be written ({error.strerror})") from None

    def _since(self, step: int) -> Iterator[dict[str, Any]]:
        """Records of this stage in metrics.jsonl from optimizer step `step` on."""
        records = read_metrics(self.path)
        return (record for record in records if record["stage"] == self.stage and record["step"] >= step)

    def _forget_after(self, clock: Clock) -> None:
        """Remove this stage's records after `clock` from metrics.jsonl."""
        if not self.path.exists():
            return
        # The evaluation after an epoch's last step has the same step, and the next epoch's number.
        now = (clock.epoch, clock.step)
        kept = [r for r in read_metrics(self.path) if r["stage"] != self.stage or (r["epoch"], r["step"]) <= now]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_text(self.path, text)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut short by a crash is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
