"""The in-memory reader: exact pixels, and one line for every way in which a beton can be broken."""

import numpy as np
import pytest
import torch

from dist_rmd.data.loading.memory_reader import MemoryReader
from dist_rmd.errors import DataError

CPU = torch.device("cpu")


def test_serves_the_pixels_that_were_written(beton):
    path, pixels = beton
    batches = [np.array([5, 0, 202]), np.arange(100), np.array([7])]
    got = list(MemoryReader(path, CPU).read(batches))
    for batch, (images, indices) in zip(batches, got, strict=True):
        assert images.dtype == torch.uint8
        assert torch.equal(images, pixels[batch])
        assert indices.tolist() == batch.tolist()


def test_positions_that_do_not_exist(beton):
    reader = MemoryReader(beton[0], CPU)
    for wrong in (203, -1):
        with pytest.raises(DataError, match=rf"train.beton: has 203 images, no image {wrong}; "):
            next(reader.read([np.array([0]), np.array([1, wrong])]))


def test_missing_beton(tmp_path):
    with pytest.raises(DataError, match=r"absent.beton: No such file or directory; "):
        MemoryReader(tmp_path / "absent.beton", CPU)


@pytest.mark.parametrize("size", [0, 10, 500, 5000, -25_000, -1, "one byte more"])
def test_truncated_beton(beton, tmp_path, size):
    content = beton[0].read_bytes()
    path = tmp_path / "cut.beton"
    path.write_bytes(content + b"0" if isinstance(size, str) else content[:size])
    with pytest.raises(DataError, match=r"cut\.beton: .*dist_rmd\.prepare") as caught:
        MemoryReader(path, CPU)
    assert "\n" not in str(caught.value)


def test_something_else(tmp_path):
    path = tmp_path / "x.beton"
    path.write_bytes(b"label,image\n" * 1000)
    with pytest.raises(DataError, match=r"x.beton: not a beton that prepare wrote"):
        MemoryReader(path, CPU)


def test_images_of_several_sizes(tmp_path, write_beton):
    path = tmp_path / "mixed.beton"
    write_beton(path, 4, 8)
    content = bytearray(path.read_bytes())
    before = content.index((8).to_bytes(2, "little") * 2)  # width and height of the first image
    content[before : before + 2] = (9).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"mixed.beton: not raw images of one size"):
        MemoryReader(path, CPU)
