"""All images of a beton held on the device: for small data, and the fastest there is.  Needs neither FFCV nor numba."""

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rmd.data.beton import ALLOCATION, FIELD, HEADER, RAW, REMEDY, SAMPLE
from dist_rmd.errors import DataError


class MemoryReader:
    """Serves batches of the beton at `path` from one uint8 tensor on `device`.

    Raises DataError where the file is missing, truncated or not of raw images of one size.
    """

    def __init__(self, path: Path, device: torch.device):
        self.path, self.device = path, device
        images = read_images(path, np.arange(len(read_table(path)[0])))
        self._images = torch.from_numpy(images).to(device)

    def read(self, batches: Sequence[NDArray[np.int64]]) -> Generator[tuple[Tensor, Tensor]]:
        """For each batch of b positions in the beton: b x S x S x 3 uint8 and the positions, b int64, on the device.

        Raises DataError for a position that the beton does not have.
        """
        check_positions(self.path, len(self._images), batches)
        for batch in batches:
            indices = send(torch.from_numpy(batch), self.device)
            yield self._images[indices], indices


def read_table(path: Path) -> tuple[NDArray[np.void], int]:
    """The rows (beton.SAMPLE) of all images of a beton, and the side of the images.

    Raises DataError unless all images are raw, square, of one size and wholly inside the file.
    """
    try:
        size = path.stat().st_size
        header = np.fromfile(path, HEADER, 1)
        fields = np.fromfile(path, FIELD, 2, offset=HEADER.itemsize)
        if len(header) != 1 or header["version"] != 2 or fields["name"].tolist() != [b"image", b"index"]:
            raise DataError(f"{path}: not a beton that prepare wrote; {REMEDY}")
        count = int(header["num_samples"][0])
        samples = np.fromfile(path, SAMPLE, count, offset=HEADER.itemsize + fields.nbytes)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; {REMEDY}") from None
    if len(samples) != count or size != header["table_ptr"][0] + count * ALLOCATION.itemsize:
        raise DataError(f"{path}: truncated or damaged ({size} bytes); copy it again, or {REMEDY}")
    images = samples["image"]
    side = int(images["width"][0]) if count else 0
    if (images["width"] != side).any() or (images["height"] != side).any() or (images["mode"] != RAW).any():
        raise DataError(f"{path}: not raw images of one size; {REMEDY}")
    if count and int(images["data_ptr"].max()) + side * side * 3 > size:
        raise DataError(f"{path}: its table of images is damaged; {REMEDY}")
    return samples, side


def read_images(path: Path, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The images at these n positions, n x S x S x 3, and no others: a beton may be larger than memory.

    Raises DataError as `MemoryReader` does, and for a position that the beton does not have.
    """
    samples, side = read_table(path)
    check_positions(path, len(samples), [positions])
    content = np.memmap(path, np.uint8, "r")
    images = np.empty((len(positions), side * side * 3), np.uint8)
    for image, start in zip(images, samples["image"]["data_ptr"][positions].tolist(), strict=True):
        image[:] = content[start : start + len(image)]
    return images.reshape(-1, side, side, 3)


def check_positions(path: Path, count: int, batches: Sequence[NDArray[np.int64]]) -> None:
    """Raise DataError unless all positions are in 0..count-1: FFCV would read whatever is in memory there."""
    for batch in batches:
        if len(batch) and not 0 <= batch.min() <= batch.max() < count:
            wrong = batch.min() if batch.min() < 0 else batch.max()
            raise DataError(f"{path}: has {count} images, no image {wrong}; were the labels made for another dataset?")


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a CPU tensor on `device`, without waiting for the device.  `tensor` may be overwritten at once."""
    if device.type != "cuda":
        return tensor.to(device, copy=True)
    # torch keeps this pinned memory aside until the copy out of it has run.
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor).to(device, non_blocking=True)
