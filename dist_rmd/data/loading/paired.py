"""Two loaders at once: every batch of one brings a batch of the other along."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace

from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loader import Loader


class Paired:
    """The batches of `loader`, each with a batch of `extra`.

    An epoch is one of `loader`.  The other loader goes through its own images at its own pace, over and over: in global
    batch k of all epochs it is at batch k modulo its length, of its epoch k // length.  So what comes along is a
    function of the place in the training, too, on any number of ranks and after any restart.
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
        """What comes along from the `step`th global batch of the training on, without end."""
        epoch, start = divmod(step, len(self.extra))
        while True:
            yield from self.extra.epoch(epoch, start)
            epoch, start = epoch + 1, 0
