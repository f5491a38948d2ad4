"""Label noise, made on purpose.

corrupt(labels, kind, rate, ...) -> noisy labels.  openset(labels, pool, rho1, rho2, ...) -> noisy labels, and which
images are replaced by open-set images, which show none of the classes.

Every random choice comes from the raw 64-bit words of numpy's Philox.  That stream is fixed for ever, unlike those of
numpy's distributions: a seed gives the same labels on every platform and under every version of numpy.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Labels = NDArray[np.int64]

KINDS = ("none", "symmetric", "asymmetric", "pairflip")

OPEN = -1
"""the true label of an open-set image, which shows none of the classes"""


def corrupt(
    labels: ArrayLike,
    kind: str,
    rate: float,
    num_classes: int,
    seed: int,
    class_map: Mapping[int, int] | None = None,
    exact: bool = True,
    include_true: bool = False,
) -> Labels:
    """A copy of `labels` (N integers in 0..num_classes-1), N int64, in which some labels are wrong.

    kind: "none" leaves all labels as they are.  The others choose labels, and then give each of them
        "symmetric": one of the other classes with equal probability ("onto the labels of the other classes", RMDNet);
            with `include_true`, one of all classes, so that a fraction 1/num_classes of them stays right (DivideMix),
        "asymmetric": the class to which `class_map` sends its own; classes that are not in it keep all their labels,
        "pairflip": the next class, and the last one class 0.
    rate: the fraction of labels chosen, in [0, 1].
    exact: choose round(rate * n_c) of the n_c labels of every class; else each label by itself with probability `rate`.
    seed: a non-negative integer.  A higher rate under the same seed moves the same labels, and more.

    Raises ValueError for an unknown kind or a value outside its range.

    >>> from dist_rmd import corrupt
    >>> corrupt([0, 1, 2, 0, 1, 2], "symmetric", rate=0.5, num_classes=3, seed=0)
    array([2, 0, 2, 0, 1, 1])
    >>> corrupt([0, 1, 2, 0, 1, 2], "pairflip", rate=1, num_classes=3, seed=0)
    array([1, 2, 0, 1, 2, 0])
    """
    if kind not in KINDS:
        raise ValueError(f"unknown noise kind {kind!r}: choose from {', '.join(KINDS)}")
    if not 0 <= rate <= 1:
        raise ValueError(f"noise rate {rate} is outside [0, 1]")
    clean = checked_labels(labels, num_classes)
    if kind == "none":
        return clean
    keys, targets = random_words(seed, 2 * len(clean)).reshape(2, -1)
    chosen = _exactly(clean, keys, rate, num_classes) if exact else np.flatnonzero(keys < rate * 2.0**64)
    noisy = clean.copy()
    if kind == "symmetric":
        noisy[chosen] = _uniform(clean[chosen], targets[chosen], num_classes, include_true)
    else:
        noisy[chosen] = _table(kind, class_map, num_classes)[clean[chosen]]
    return noisy


def openset(
    labels: ArrayLike,
    pool: int,
    rho1: float,
    rho2: float,
    num_classes: int,
    seed: int,
    include_true: bool = False,
    keep_label: bool = False,
) -> tuple[Labels, NDArray[np.int64]]:
    """Closed-set and open-set noise at once (MODUL sec. III and V-A): (given labels, which image of the pool), N each.

    labels: N integers in 0..num_classes-1, the true labels of N images.
    pool: number of open-set images to draw from.
    rho1, rho2: in [0, 1].  Of the N images, round(rho1 N) are noisy, and round(rho1 rho2 N) of these, drawn from all
        classes alike, are replaced by images of the pool.  N - round(rho1 N) images stay clean; the rest is closed-set
        noise.
    seed: a non-negative integer.  A higher rho1 under the same seed keeps noisy what was noisy, and a higher rho1 rho2
        keeps open what was open, under the same image.
    include_true: closed-set noise draws from all classes; by default from all others than the true one.
    keep_label: an open-set image has the label of the image that it replaces (as in MODUL's code); by default, it has
        the label of any class with equal probability.

    The second array is in 0..pool-1, no image twice, and -1 where an image stays.  Raises ValueError for a value
    outside its range, and for a pool that is too small.

    >>> from dist_rmd import openset
    >>> given, taken = openset([0, 1, 2, 0, 1, 2], pool=4, rho1=0.5, rho2=0.4, num_classes=3, seed=0)
    >>> given  # three labels are wrong ...
    array([2, 1, 2, 1, 1, 1])
    >>> taken  # ... of which the first one belongs to image 2 of the pool from now on
    array([ 2, -1, -1, -1, -1, -1])
    """
    for name, rho in {"rho1": rho1, "rho2": rho2}.items():
        if not 0 <= rho <= 1:
            raise ValueError(f"{name} {rho} is outside [0, 1]")
    clean = checked_labels(labels, num_classes)
    noisy_count, open_count = round(rho1 * len(clean)), round(rho1 * rho2 * len(clean))
    if open_count > pool:
        raise ValueError(f"{open_count} images of none of the classes are needed, but there are {pool}")
    drawn = random_words(seed, 2 * len(clean) + pool)
    keys, targets = drawn[: 2 * len(clean)].reshape(2, -1)
    noisy = np.argsort(keys, kind="stable")[:noisy_count]
    opened, closed = noisy[:open_count], noisy[open_count:]
    given = clean.copy()
    given[closed] = _uniform(clean[closed], targets[closed], num_classes, include_true)
    if not keep_label:
        given[opened] = (targets[opened] % np.uint64(num_classes)).astype(np.int64)
    taken = np.full(len(clean), -1)
    taken[opened] = np.argsort(drawn[2 * len(clean) :], kind="stable")[:open_count]
    return given, taken


def transitions(true: ArrayLike, given: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """num_classes x num_classes int64: how many labels of true class (row) are given as which class (column).

    If there are open-set images (true label OPEN), one more row, the last, counts them.
    """
    rows = np.asarray(true)
    counts = np.zeros((num_classes + 1, num_classes), np.int64)
    np.add.at(counts, (rows, np.asarray(given)), 1)  # OPEN counts from the end
    return counts if (rows == OPEN).any() else counts[:-1]


def checked_labels(labels: ArrayLike, num_classes: int) -> Labels:
    """`labels` as int64.  Raises ValueError unless they are N integers in 0..num_classes-1."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"labels must be a list of integers, not {array.dtype} of shape {array.shape}")
    if array.size and not 0 <= array.min() <= array.max() < num_classes:
        raise ValueError(f"labels {array.min()}..{array.max()} are outside 0..{num_classes - 1}")
    return array.astype(np.int64)


def random_words(seed: int | tuple[int, ...], count: int) -> NDArray[np.uint64]:
    """`count` random 64-bit words."""
    return np.random.Philox(np.random.SeedSequence(seed)).random_raw(count)


def _exactly(labels: Labels, keys: NDArray[np.uint64], rate: float, num_classes: int) -> NDArray[np.int64]:
    """Positions of round(rate * n_c) labels of each class: those with the smallest keys."""
    sizes = np.bincount(labels, minlength=num_classes)
    shuffled = np.split(np.lexsort((keys, labels)), np.cumsum(sizes)[:-1])  # per class: its positions in random order
    return np.concatenate([members[: round(rate * len(members))] for members in shuffled])


def _uniform(labels: Labels, words: NDArray[np.uint64], num_classes: int, include_true: bool) -> Labels:
    if num_classes < 2:
        raise ValueError("labels of another class need at least 2 classes")
    least = 0 if include_true else 1
    away = least + words % np.uint64(num_classes - least)  # steps from the true class; bias below 2**-50
    return (labels + away.astype(np.int64)) % num_classes


def _table(kind: str, class_map: Mapping[int, int] | None, num_classes: int) -> Labels:
    """The class that each class becomes."""
    table = np.arange(num_classes)
    if kind == "pairflip":
        return (table + 1) % num_classes
    if not class_map:
        raise ValueError("asymmetric noise needs a class_map, such as {9: 1}: which class is taken for which")
    for source, target in class_map.items():
        for label in (source, target):
            if not 0 <= label < num_classes:
                raise ValueError(f"class_map names class {label}, which is outside 0..{num_classes - 1}")
        if source == target:
            raise ValueError(f"class_map sends class {source} to itself")
        table[source] = target
    return table
