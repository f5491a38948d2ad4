"""Small betons for the tests of readers and loaders, written by FFCV's own writer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dist_rmd.data.augment.kernels import uncompiled


class _Images:
    """Random images that differ everywhere, so that any mix-up shows."""

    def __init__(self, count: int, side: int, seed: int):
        self.pixels = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.pixels[index], index


@pytest.fixture(scope="session")
def write_beton():
    """write_beton(path, count, side, seed=0) writes a beton and returns its pixels, count x side x side x 3 uint8."""

    def write(path: Path, count: int, side: int, seed: int = 0) -> torch.Tensor:
        threads = torch.get_num_threads()
        with uncompiled():
            from ffcv.fields import IntField, RGBImageField
            from ffcv.writer import DatasetWriter

        torch.set_num_threads(threads)  # FFCV changes it when imported
        images = _Images(count, side, seed)
        fields = {"image": RGBImageField(write_mode="raw", max_resolution=side), "index": IntField()}
        DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(images)
        return torch.from_numpy(images.pixels)

    return write


@pytest.fixture(scope="session")
def beton(tmp_path_factory, write_beton) -> tuple[Path, torch.Tensor]:
    """A beton of 203 images of 8 x 8, and their pixels."""
    path = tmp_path_factory.mktemp("beton") / "train.beton"
    return path, write_beton(path, 203, 8)
