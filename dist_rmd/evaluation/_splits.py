"""The images that evaluations use, without augmentation."""

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
        """Yield each image of this rank's share once, in batches."""
        ...


@dataclass(frozen=True)
class Splits:
    """Functions that make a split's loader, which yields every image once over all ranks, unaugmented, with its label.

    Labels are the correct labels where known.  A loader is made when an evaluation asks for it: most need only one.
    """

    train: Callable[[], Images]
    test: Callable[[], Images]
    classes: int
    validation: Callable[[], Images] | None = None
    """images held out of training, with their given labels, right or wrong"""
    verified: bool = True
    """False: nobody knows the correct labels of `train`, which has the given labels instead"""
    test_verified: bool = True
    """False: nobody knows the correct labels of `test`, which was held out of the training images"""

    def measured(self, name: str, train: bool = False) -> str:
        """The name of a metric: test/<name>, or test/<name>_unverified where given labels stand for correct labels.

        train: whether the metric also depends on the labels of the training images.
        """
        return f"test/{name}" if self.test_verified and (self.verified or not train) else f"test/{name}_unverified"


def splits(source: Loaders, train: LabelView, validation: LabelView | None = None) -> Splits:
    """The splits of a run: all test images of `source`'s dataset, and the training images of `train`.

    validation: images held out of training under their given labels, if there are any.
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
