"""Two loaders side by side: every batch of the first loader carries a batch of the second."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace

from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loader import Loader


class Paired:
    """The batches of `loader`, each with a batch of `extra`.

    An epoch is an epoch of `loader`.  `extra` repeats its own epochs without end: global batch k, counted over all
    epochs, carries batch k % len(extra) of epoch k // len(extra).  The extra batch therefore depends on the place in
    the training alone, on any number of ranks and after any restart.
    """

    def __init__(self, loader: Loader, extra: Loader):
        self.loader, self.extra = loader, extra

    def __len__(self) -> int:
        """Global batches in an epoch."""
        return len(self.loader)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """The batches of epoch `epoch` from global batch `start` on.  Leaving early ends the reading."""
        with (
            closing(self.loader.epoch(epoch, start)) as batches,
            closing(self._from(epoch * len(self) + start)) as more,
        ):
            for batch, other in zip(batches, more):  # noqa: B905 (the second one has no end)
                yield replace(batch, extra=other)

    def _from(self, step: int) -> Generator[Batch]:
        """The batches of `extra` from global batch `step` of the training on, without end."""
        epoch, start = divmod(step, len(self.extra))
        while True:
            yield from self.extra.epoch(epoch, start)
            epoch, start = epoch + 1, 0
