"""The images that evaluations look at, without augmentation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders


class Images(Protocol):
    """This rank's share of some images, in batches: a Loader."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Each of them once."""
        ...


@dataclass(frozen=True)
class Splits:
    """Makers of loaders that yield every image once over all ranks, as the test view, with its correct label.

    They are made on first use: most evaluations need only one.
    """

    train: Callable[[], Images]
    test: Callable[[], Images]
    classes: int
    validation: Callable[[], Images] | None = None
    """images held out of training, with the labels that are given to them, right or wrong"""
    verified: bool = True
    """False: nobody knows the correct labels of `train`, which comes with the given ones"""
    test_verified: bool = True
    """False: nor those of `test`, which is a part of the training images that was held out"""

    def measured(self, name: str, train: bool = False) -> str:
        """test/<name>, with _unverified where labels as given stand for the right ones.

        train: those of the training images decide, too.
        """
        return f"test/{name}" if self.test_verified and (self.verified or not train) else f"test/{name}_unverified"


def splits(source: Loaders, train: LabelView, validation: LabelView | None = None) -> Splits:
    """Those of the images behind `source`: all test images, and the training images of `train`.

    validation: images held out of training, if any, under their given labels.
    """
    classes = len(source.dataset.classes)
    return Splits(
        train=lambda: source.evaluation("train", train.best_known()),
        test=lambda: source.evaluation("test", LabelView.of(source.dataset.labels("test"), classes)),
        classes=classes,
        validation=None if validation is None else partial(source.evaluation, "train", validation),
        verified=train.true is not None,
        test_verified=not source.dataset.held_out,
    )
