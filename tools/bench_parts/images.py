"""The images that all ways are given: random pixels, written as a prepared dataset, unless the user has some."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.data.loading.memory_reader import MemoryReader
from dist_rmd.data.prepared.beton import Dataset, write

SIDE, CLASSES = 32, 10


def generate(folder: Path, train: int, test: int) -> Dataset:
    """So many images of random pixels, with random labels.  What they show makes no difference to any speed here."""
    draw = np.random.default_rng(0)

    def split(name: str, count: int) -> Split:
        pixels = draw.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
        labels = np.arange(count, dtype=np.int64) % CLASSES
        return Split(labels, [f"{name}/{i}" for i in range(count)], pixels.__getitem__)

    names = tuple(f"class {i}" for i in range(CLASSES))
    splits = {name: split(name, count) for name, count in (("train", train), ("test", test))}
    return write(RawDataset("random pixels", SIDE, names, splits), folder)


def pixels(dataset: Dataset, split: str, count: int) -> NDArray[np.uint8]:
    """The first `count` images of a split, count x 32 x 32 x 3."""
    reader = MemoryReader(dataset.beton(split), torch.device("cpu"))
    ((images, _),) = reader.read([np.arange(count)])
    return images.numpy()
