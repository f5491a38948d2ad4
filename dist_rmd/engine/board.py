"""TensorBoard files of one stage.  Training goes on when they cannot be written, and completes them later."""

import contextlib
import functools
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

PAUSE = 30.0
"""seconds between two attempts to take up writing again"""


class Board:
    """Shows scalars and pictures in `folder`; what stood there of optimizer steps from `step` on is forgotten.

    TensorBoard writes by a thread that ends at the first error, such as a full disk.  Then this says so once, drops
    what it is given, and tries again now and then: with what `known` gives, all records from a step on, nothing but
    pictures is missing in the end.  Raises OSError where nothing can be written at the beginning.
    """

    def __init__(self, folder: Path, step: int, known: Callable[[int], Iterable[Mapping[str, Any]]]):
        self.folder, self.known = folder, known
        self._whole = step  # all before this step is on the disk
        self._lost_at = 0.0  # time of the last failure
        self._writer: SummaryWriter | None = None
        self._open()

    def scalars(self, record: Mapping[str, Any]) -> None:
        """Show what stands in a record of metrics.jsonl, which has it already."""
        if self._writer is None and time.monotonic() - self._lost_at > PAUSE:
            self._take_up()
        else:
            self._attempt(functools.partial(_show, record))

    def images(self, tag: str, pixels: Tensor, step: int) -> None:
        """Show n pictures as one: n x 3 x H x W in [0, 1]."""
        self._attempt(lambda writer: writer.add_images(tag, pixels, step))

    def flush(self, step: int) -> None:
        """Return when all up to `step` is in the files, unless they cannot be written."""
        self._take_up()
        if self._attempt(lambda writer: writer.flush()):
            self._whole, self._lost_at = step, 0.0

    def close(self) -> None:
        """Flush and close, with a last attempt to take up what was lost."""
        self._take_up()
        self._attempt(lambda writer: writer.close())

    def _open(self) -> None:
        # TensorBoard reads files in the order of their names, which tell the second and then the process: of two
        # processes in one second the earlier one would be read last.
        second = f"*.tfevents.{int(time.time()):010d}.*"
        if any(f".{os.getpid()}." not in file.name for file in self.folder.glob(second)):
            time.sleep(1 - time.time() % 1)
        self._writer = SummaryWriter(str(self.folder), purge_step=self._whole)
        for record in self.known(self._whole):  # whole steps are forgotten: what is known of this one is told again
            self._attempt(functools.partial(_show, record))

    def _take_up(self) -> None:
        if self._writer is None:
            self._lost_at = time.monotonic()
            with contextlib.suppress(OSError):
                self._open()

    def _attempt(self, write: Callable[[SummaryWriter], object]) -> bool:
        if self._writer is None:
            return False
        try:
            write(self._writer)
        except OSError as error:
            self._writer = None
            if not self._lost_at:
                warnings.warn(
                    f"{self.folder}: TensorBoard's curves cannot be written ({error.strerror}): training goes on, "
                    "metrics.jsonl has them, and they are taken up again when there is room",
                    stacklevel=4,
                )
            self._lost_at = time.monotonic()
            return False
        return True


def _show(record: Mapping[str, Any], writer: SummaryWriter) -> None:
    values = {tag: value for tag, value in record.items() if "/" in tag}
    if not record["step"]:  # what a computation has found is no point of a curve
        rows = [f"| {tag.partition('/')[2]} | {value:g} |" for tag, value in values.items()]
        writer.add_text(record["stage"], "\n".join([f"| {record['stage']} | |", "|---|---|", *rows]), 0)
        return
    for tag, value in values.items():
        writer.add_scalar(tag, value, record["step"])
