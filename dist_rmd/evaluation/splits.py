"""The images that evaluations look at, without augmentation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Splits:
    """Makers of loaders that yield every image once over all ranks, as the test view, with its correct label.

    They are made on first use: most evaluations need only one.
    """

    train: Callable[[], Any]
    test: Callable[[], Any]
    classes: int
    validation: Callable[[], Any] | None = None
    """images held out of training, with the labels that are given to them, right or wrong"""
    verified: bool = True
    """False: nobody knows the correct labels of `train`, which comes with the given ones"""
