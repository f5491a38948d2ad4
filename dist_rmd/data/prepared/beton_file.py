"""The layout of a .beton file, and a reader of its images.  Needs neither FFCV nor numba."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rmd.errors import DataError

REMEDY = "make it anew with python -m dist_rmd.prepare"

# The layout of FFCV 1.0.2, repeated here because importing ffcv takes seconds, and not every machine has ffcv.
HEADER = np.dtype(
    [("version", "<u2"), ("num_fields", "<u2"), ("page_size", "<u4"), ("num_samples", "<u8"), ("table_ptr", "<u8")]
)
FIELD = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "u1", 1024)])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
SAMPLE = np.dtype([("image", IMAGE), ("index", "<i8")], align=True)
ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
FIELD_TYPES = (2, 1)  # RGBImageField, IntField
MIN_PAGE = 2**21
RAW = 1  # the image mode that is not JPEG


def read_table(path: Path) -> tuple[NDArray[np.void], int]:
    """Read the rows (SAMPLE) of all images of a beton, and the side of the images in pixels.

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
    """Read the images at n positions, n x S x S x 3, and no other images: a beton may be larger than memory.

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
    """Raise DataError unless all positions are in 0..count-1: for others FFCV would read unrelated memory."""
    for batch in batches:
        if len(batch) and not 0 <= batch.min() <= batch.max() < count:
            wrong = batch.min() if batch.min() < 0 else batch.max()
            raise DataError(f"{path}: has {count} images, no image {wrong}; were the labels made for another dataset?")
