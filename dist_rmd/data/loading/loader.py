"""Epochs of batches: a permutation per (seed, epoch) is cut into global batches, of which every rank takes its slice.

Step k of epoch e therefore has the same samples and pixels on any number of ranks and workers, after any restart, and
with any reader (FFCV or memory).
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rmd.data.augment import keyed_rng
from dist_rmd.data.augment.views import Views
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.memory_reader import send
from dist_rmd.errors import ConfigError


class ImageReader(Protocol):
    """BetonReader or MemoryReader."""

    device: torch.device

    def read(self, batches: Sequence[NDArray[np.int64]]) -> Generator[tuple[Tensor, Tensor]]: ...


class Loader:
    """Batches of views and labels for rank `rank` of `world`; `batch_size` counts the samples of all ranks.

    shuffle: a new order every epoch; otherwise the order of the label view.  drop_last: leave out the last, smaller
    batch.  For evaluation, with neither, every sample is served exactly once over all ranks; a rank without a sample in
    the last batch yields one batch less.  With shuffle, all ranks have samples in every batch.
    aligned: cut a batch into parts of batch_size / world samples, the last of which may be smaller or empty, rather
    than into equal parts.  Where batch_size grows with the world size, a network then gets the same samples together
    on any number of ranks, so that its outputs are the same to the bit.
    Raises ConfigError with shuffle where a batch has fewer samples than ranks, and with drop_last where no batch is
    full.
    """

    def __init__(
        self,
        reader: ImageReader,
        labels: LabelView,
        views: Views,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        shuffle: bool = True,
        drop_last: bool = True,
        aligned: bool = False,
    ):
        samples = len(labels.indices)
        if drop_last and batch_size > samples:
            raise ConfigError(f"batch_size={batch_size} but there are only {samples} images: choose a smaller batch")
        smallest = batch_size if drop_last else samples % batch_size or batch_size
        if shuffle and smallest < world:
            raise ConfigError(
                f"a batch of {smallest} images (batch_size={batch_size}) leaves some of {world} ranks none"
            )
        self._reader, self._views, self._indices = reader, views, labels.indices
        self._batch_size, self._seed, self._rank, self._world, self._shuffle = batch_size, seed, rank, world, shuffle
        self._aligned = aligned
        # A stream of the loader's own, so that a GPU makes batches while the network works on earlier batches.
        self._stream = torch.cuda.Stream(reader.device) if reader.device.type == "cuda" else None
        self._batches = samples // batch_size if drop_last else -(-samples // batch_size)
        columns = [labels.given, labels.rows] + ([] if labels.true is None else [labels.given == labels.true])
        by_position = np.full((len(columns), labels.indices.max(initial=-1) + 1), -1)
        by_position[:, labels.indices] = columns
        self._known = send(torch.from_numpy(by_position), reader.device)  # columns by position in the beton

    def __len__(self) -> int:
        """Global batches in an epoch."""
        return self._batches

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """The batches of epoch `epoch` from global batch `start` on.  Leaving early ends the reading."""
        batches = self._made(epoch, start)
        return batches if self._stream is None else beside(batches, self._stream)

    def _made(self, epoch: int, start: int) -> Generator[Batch]:
        order = self._order(epoch)
        own, numbers, sizes = [], [], []
        for number in range(start, self._batches):
            whole = order[number * self._batch_size : (number + 1) * self._batch_size]
            parts = [whole[self._part(len(whole), rank)] for rank in range(self._world)]
            if len(parts[self._rank]):
                own.append(parts[self._rank])
                numbers.append(number)
                sizes.append(tuple(map(len, parts)))
        with closing(self._reader.read(own)) as read:
            for number, shard_sizes, (images, indices) in zip(numbers, sizes, read, strict=True):
                views = self._views(images, indices, epoch, number)
                given, rows, *truth = self._known[:, indices].unbind()
                right = truth[0] == 1 if truth else None
                yield Batch(views, given, indices, rows, shard_sizes, epoch, number, right)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Positions in the beton, in the order in which they are cut into global batches."""
        if not self._shuffle:
            return self._indices
        return self._indices[keyed_rng.epoch_order(len(self._indices), self._seed, epoch)]

    def _part(self, size: int, rank: int) -> slice:
        """The part of a global batch of `size` samples that rank `rank` takes."""
        if not self._aligned:
            return keyed_rng.shard(size, rank, self._world)
        each = -(-self._batch_size // self._world)
        return slice(rank * each, (rank + 1) * each)


def beside(batches: Generator[Batch], stream: torch.cuda.Stream) -> Generator[Batch]:
    """Make each of `batches` on `stream` while the current stream works on something else."""
    stream.wait_stream(torch.cuda.current_stream())  # which sent the tables that the batches are made from
    with closing(batches):
        while True:
            with torch.cuda.stream(stream):
                batch = next(batches, None)
            if batch is None:
                return
            current = torch.cuda.current_stream()
            current.wait_stream(stream)
            for tensor in batch.tensors:
                tensor.record_stream(current)  # or the next batch could take the tensor's memory too early
            yield batch
