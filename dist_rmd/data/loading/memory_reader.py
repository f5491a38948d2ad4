"""Readers of images that all lie in the device's memory: the fastest, for small data.  Needs neither FFCV nor numba."""

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rmd.data.prepared.beton_file import check_positions, read_images, read_table


class MemoryReader:
    """Serves batches of the beton at `path` from one uint8 tensor on `device`.

    Raises DataError where the file is missing, truncated or not of raw images of one size.
    """

    def __init__(self, path: Path, device: torch.device):
        self.path, self.device = path, device
        images = read_images(path, np.arange(len(read_table(path)[0])))
        self._images = torch.from_numpy(images).to(device)

    def read(self, batches: Sequence[NDArray[np.int64]]) -> Generator[tuple[Tensor, Tensor]]:
        """Yield for each batch of b positions in the beton: images b x S x S x 3 uint8 and positions b int64.

        Both are on the device.  Raises DataError for a position that the beton does not have.
        """
        check_positions(self.path, len(self._images), batches)
        for batch in batches:
            indices = send(torch.from_numpy(batch), self.device)
            yield self._images[indices], indices


class MadeReader:
    """Serves batches of `images` that a stage has made: N x S x S x 3 uint8, on `device`; positions are 0..N-1."""

    def __init__(self, images: Tensor, device: torch.device):
        self.device, self._images = device, images.to(device)

    def read(self, batches: Sequence[NDArray[np.int64]]) -> Generator[tuple[Tensor, Tensor]]:
        """Yield images and positions of each batch, as MemoryReader.read does."""
        for batch in batches:
            indices = send(torch.from_numpy(batch), self.device)
            yield self._images[indices], indices


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a CPU tensor on `device`, without waiting for the device.  `tensor` may be overwritten at once."""
    if device.type != "cuda":
        return tensor.to(device, copy=True)
    # torch does not reuse the pinned memory before the copy to the device is done.
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor).to(device, non_blocking=True)
