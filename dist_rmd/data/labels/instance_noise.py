"""Instance-dependent label noise: the wrong label of an image depends on the image's pixels (Xia et al. 2020)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit, ndtr, ndtri, softmax

from dist_rmd.data.labels.noise import Labels, checked_labels, random_words
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.prepared.beton import Dataset

SPREAD = 0.1  # standard deviation of the images' flip rates, as published
CHUNK = 1024  # images whose pixels are in memory at a time


def instance_view(
    dataset: Dataset, rate: float, seed: int, per_class: int | None = None, exact: bool = True, skip: int = 0
) -> LabelView:
    """The first `per_class` training images of every class (all when None) after `skip`, with the noise of `instance`.

    The features that `instance` takes are the pixels, normalised by channel.  A class with fewer images gives all its
    images.  Raises ValueError for values outside their range, DataError where the images cannot be read.
    """
    clean = LabelView.of(dataset.labels("train"), len(dataset.classes)).first(per_class, skip)

    def pixels(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        images = dataset.images("train", clean.indices[rows]) / 255
        return ((images - dataset.mean) / dataset.std).reshape(len(rows), -1)

    given = instance(clean.given, pixels, rate, len(dataset.classes), seed, exact)
    return replace(clean, given=given, origin={"kind": "instance", "rate": rate, "seed": seed, "exact": exact})


def instance(
    labels: ArrayLike,
    features: Callable[[NDArray[np.int64]], NDArray[np.floating]],
    rate: float,
    num_classes: int,
    seed: int,
    exact: bool = True,
) -> Labels:
    """A copy of `labels` (N integers in 0..num_classes-1), N int64, with instance-dependent noise.

    The recipe is published (Xia et al. 2020, https://arxiv.org/abs/2006.07836, algorithm 2 of the appendix).  Image i
    has a flip rate q_i, normal around `rate` with standard deviation 0.1 and truncated to [0, 1].  Class y has a random
    D x C matrix W_y of standard normal numbers.  A label y that flips becomes class c with probability softmax(x_i W_y)
    over the classes other than y, where x_i are the image's features.

    features: a function, positions of n images (n int64) -> features of these images, n x D.
    exact: flip round(rate * n_y) of the n_y labels of every class; else each label independently with probability q_i.
        An independent label flips where logit(u_i) < logit(q_i), u_i uniform; the exact form shifts this threshold in
        each class until round(rate * n_y) labels flip.
    seed: a non-negative integer.

    Raises ValueError for a value outside its range.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"noise rate {rate} is outside [0, 1]")
    if num_classes < 2:
        raise ValueError("labels of another class need at least 2 classes")
    clean = checked_labels(labels, num_classes)
    flip, level, target = uniform(random_words(seed, 3 * len(clean))).reshape(3, -1)
    keys = logit(flip) - logit(_rates(level, rate))
    noisy = clean.copy()
    for label in range(num_classes):
        rows = np.flatnonzero(clean == label)
        ranked = rows[np.argsort(keys[rows], kind="stable")]
        chosen = ranked[: round(rate * len(rows)) if exact else int((keys[rows] < 0).sum())]
        matrix = None  # W_y
        for part in np.split(chosen, range(CHUNK, len(chosen), CHUNK)):
            x = features(part)
            if matrix is None:
                draws = random_words((seed, 1 + label), x.shape[1] * num_classes)
                matrix = ndtri(uniform(draws)).reshape(x.shape[1], num_classes)
            scores = x @ matrix
            scores[:, label] = -np.inf
            reached = np.cumsum(softmax(scores, axis=1), axis=1)
            noisy[part] = (reached < target[part, None] * reached[:, -1:]).sum(axis=1)
    return noisy


def uniform(drawn: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform numbers in (0, 1), without either end, from as many random 64-bit words."""
    return ((drawn >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _rates(level: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Flip rates (0..1): the quantiles at `level` of the normal distribution around `rate`, truncated to 0..1."""
    low, high = ndtr((0 - rate) / SPREAD), ndtr((1 - rate) / SPREAD)
    return np.clip(rate + SPREAD * ndtri(low + level * (high - low)), 0, 1)
