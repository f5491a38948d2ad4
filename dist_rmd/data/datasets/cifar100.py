"""CIFAR-100 with its 100 fine classes (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html)."""

from pathlib import Path

from torchvision.datasets import CIFAR100

from dist_rmd.data.datasets import cifar10
from dist_rmd.data.datasets.base import RawDataset

__all__ = ["cifar100"]


def cifar100(origin: Path | None, side: int | None) -> RawDataset:
    """50,000 training and 10,000 test images of 100 classes, read as by cifar10 from cifar-100-python(.tar.gz)."""
    return cifar10.read("cifar100", CIFAR100, origin, side)
