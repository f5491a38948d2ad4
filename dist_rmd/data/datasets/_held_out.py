"""Holds out a part of the training images as test images, for a dataset without test images."""

from dataclasses import replace

import numpy as np

from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.errors import DataError

FRACTION = 0.1


def with_held_out(source: RawDataset) -> RawDataset:
    """Move a tenth of every class of "train", at least one image, to "test"; always the same images.

    The labels of both splits count as not verified.  Raises DataError for a class of a single image.
    """
    train = source.splits["train"]
    rng = np.random.default_rng(0)
    chosen = np.zeros(len(train.labels), bool)
    for label, name in enumerate(source.classes):
        own = rng.permutation(np.flatnonzero(train.labels == label))
        if len(own) < 2:
            raise DataError(
                f"{source.name}: class {name} has {len(own)} image, none of which can be held out for a test"
            )
        chosen[own[: max(1, round(FRACTION * len(own)))]] = True
    splits = {"train": _part(train, ~chosen), "test": _part(train, chosen)}
    return replace(source, splits=splits, verified=False, held_out=True)


def _part(split: Split, chosen: np.ndarray) -> Split:
    places = np.flatnonzero(chosen).tolist()
    return Split(split.labels[chosen], [split.files[i] for i in places], lambda i: split.read(places[i]))
