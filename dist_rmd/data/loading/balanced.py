"""A loader whose batches are half of one set of images and half of another, however many there are of each."""

import numpy as np
from numpy.typing import NDArray

from dist_rmd.data.augment import keyed_rng
from dist_rmd.data.augment.views import Views
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loader import ImageReader, Loader
from dist_rmd.errors import ConfigError


class Balanced(Loader):
    """Global batches of batch_size // 2 images of the first set, and as many as are left of the second.

    is_first: N bool, which of the images of `labels` are the first set; neither set may be empty.
    An epoch is a pass over the first set, in keyed order.  The second set is passed over at a pace of its own, on and
    on, so that what a batch has of it depends on the place in the training alone.
    Raises ConfigError where the first set does not fill its half of a batch, and where a batch has fewer samples than
    ranks.
    """

    def __init__(
        self,
        reader: ImageReader,
        labels: LabelView,
        is_first: NDArray[np.bool_],
        views: Views,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
    ):
        super().__init__(reader, labels, views, batch_size, seed, rank, world)
        self._first, self._second = labels.indices[is_first], labels.indices[~is_first]
        self._half = batch_size // 2
        if not 0 < self._half <= len(self._first):
            raise ConfigError(
                f"half of batch_size={batch_size}, but there are only {len(self._first)} images to draw it from"
            )
        self._batches = len(self._first) // self._half

    def _order(self, epoch: int) -> NDArray[np.int64]:
        first = self._first[keyed_rng.epoch_order(len(self._first), self._seed, epoch)]
        rest, count = self._batch_size - self._half, len(self._second)
        # Places in the endless sequence of passes over the second set.
        passes, places = np.divmod(np.arange(rest * self._batches) + epoch * rest * self._batches, count)
        orders = {each: keyed_rng.epoch_order(count, self._seed, each) for each in np.unique(passes).tolist()}
        second = self._second[[orders[each][place] for each, place in zip(passes.tolist(), places, strict=True)]]
        halves = first[: self._half * self._batches].reshape(-1, self._half), second.reshape(-1, rest)
        return np.concatenate(halves, axis=1).ravel()
