"""What a run leaves for people to read: metrics.jsonl and TensorBoard.  Only rank 0 writes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from dist_rmd.engine.clock import Clock
from dist_rmd.errors import CannotCreate, WriteFailed
from dist_rmd.files import write_atomically


class Writers:
    """Scalars and pictures of one stage: lines of <folder>/metrics.jsonl and the TensorBoard run <folder>/tb/<stage>.

    What an earlier attempt wrote after optimizer step `resumed_at` is removed, so that each step stands there once.
    """

    def __init__(self, folder: Path, stage: str, rank: int, resumed_at: int = 0):
        self.stage = stage
        self.active = rank == 0
        if not self.active:
            return
        self.path = folder / "metrics.jsonl"
        self._forget_after(resumed_at)
        try:
            self.file = open(self.path, "a", buffering=1)  # noqa: SIM115 (by the line; closed in close)
            self.board = SummaryWriter(str(folder / "tb" / stage), purge_step=resumed_at + 1)
        except OSError as error:
            raise CannotCreate(f"{folder}: cannot write metrics ({error.strerror})") from None

    def scalars(self, clock: Clock, values: Mapping[str, float]) -> None:
        """Write `values` (tag -> number) at optimizer step clock.step."""
        if not self.active or not values:
            return
        record = {"stage": self.stage, "epoch": clock.epoch, "step": clock.step, **values}
        try:
            self.file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise WriteFailed(f"{self.path}: cannot be written ({error.strerror})") from None
        for tag, value in values.items():
            self.board.add_scalar(tag, value, clock.step)

    def image(self, clock: Clock, tag: str, pixels: Tensor) -> None:
        """Write one picture, 3 x H x W in [0, 1]."""
        if self.active:
            self.board.add_image(tag, pixels, clock.step)

    def close(self) -> None:
        """Flush and close both."""
        if self.active:
            self.file.close()
            self.board.close()

    def _forget_after(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = [r for r in read_metrics(self.path) if r["stage"] != self.stage or r["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self.path, lambda file: file.write(text.encode()))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut short by a crash is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
