"""What a run leaves for people to read: metrics.jsonl and TensorBoard.  Only rank 0 writes."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dist_rmd.engine.clock import Clock
from dist_rmd.errors import CannotCreate, WriteFailed
from dist_rmd.files import write_atomically


class Writers:
    """Scalars and pictures of one stage: lines of <folder>/metrics.jsonl and the TensorBoard run <folder>/tb/<stage>.

    `open` comes first, `close` last.
    """

    def __init__(self, folder: Path, stage: str, rank: int):
        self.folder, self.stage = folder, stage
        self.active = rank == 0
        self.path = folder / "metrics.jsonl"

    def open(self, resumed_at: Clock) -> None:
        """Remove what an earlier attempt wrote after `resumed_at`, so that each step stands there once, and go on."""
        if not self.active:
            return
        kept = self._forget_after(resumed_at)
        try:
            self.file = open(self.path, "a", buffering=1)  # noqa: SIM115 (by the line; closed in close)
            self.board = SummaryWriter(str(self.folder / "tb" / self.stage), purge_step=resumed_at.step)
        except OSError as error:
            raise CannotCreate(f"{self.folder}: cannot write metrics ({error.strerror})") from None
        for record in kept:  # TensorBoard forgets whole steps: what was known at this one is told again
            if record["step"] == resumed_at.step:
                self._show({tag: value for tag, value in record.items() if "/" in tag}, resumed_at.step)

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        """Write `values` (tag -> number) at optimizer step clock.step."""
        if not self.active or not values:
            return
        record = {"stage": self.stage, "epoch": clock.epoch, "step": clock.step, **values}
        with self._writing():
            self.file.write(json.dumps(record) + "\n")
            self._show(values, clock.step)

    def images(self, clock: Clock, tag: str, pixels: Tensor) -> None:
        """Write n pictures as one, eight in a row: n x 3 x H x W in [0, 1]."""
        if self.active:
            with self._writing():
                self.board.add_images(tag, pixels, clock.step)

    def flush(self) -> None:
        """Return when all of it is in the files: before a checkpoint, from which on it is not written again."""
        if self.active:
            with self._writing():
                os.fsync(self.file.fileno())
                self.board.flush()

    def close(self) -> None:
        """Flush and close both."""
        if self.active:
            with self._writing():
                self.file.close()
                self.board.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WriteFailed(f"{self.folder}: metrics cannot be written ({error.strerror})") from None

    def _show(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self.board.add_scalar(tag, value, step)

    def _forget_after(self, clock: Clock) -> list[dict[str, Any]]:
        """Drop what stands in metrics.jsonl of this stage from after `clock`; returns what stays of the stage."""
        if not self.path.exists():
            return []
        # The evaluation after an epoch's last step has the same step, and the next epoch's number.
        now = (clock.epoch, clock.step)
        kept = [r for r in read_metrics(self.path) if r["stage"] != self.stage or (r["epoch"], r["step"]) <= now]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.path, lambda file: file.write(text.encode()))
        return [record for record in kept if record["stage"] == self.stage]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut short by a crash is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
