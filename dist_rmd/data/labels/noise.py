"""Makes label noise.

corrupt(labels, kind, rate, ...) -> noisy labels.  openset(labels, pool, rho1, rho2, ...) -> noisy labels, and which
images are replaced by open-set images, which show none of the classes.

Every random choice comes from the raw 64-bit words of numpy's Philox.  numpy never changes this stream, unlike the
streams of its distributions: a seed gives the same labels on every platform and under every version of numpy.
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

    kind: "none" leaves all labels as they are.  The other kinds choose labels, and give each chosen label
        "symmetric": one of the other classes with equal probability ("onto the labels of the other classes", RMDNet);
            with `include_true`, one of all classes, so that a fraction 1/num_classes of the chosen stays right
            (DivideMix),
        "asymmetric": the class to which `class_map` sends its class; a class that is not in `class_map` keeps all its
            labels,
        "pairflip": the next class; the last class becomes class 0.
    rate: the fraction of labels chosen, in [0, 1].
    exact: choose round(rate * n_c) of the n_c labels of every class; else each label independently with probability
        `rate`.
    seed: a non-negative integer.  A higher rate under the same seed chooses the same labels, and more.

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
    """Closed-set and open-set noise (MODUL sec. III and V-A): (given labels, images taken from the pool), N int64 each.

    labels: N integers in 0..num_classes-1, the true labels of N images.
    pool: number of open-set images to draw from.
    rho1, rho2: in [0, 1].  Of the N images, round(rho1 N) are noisy.  Of the noisy images, round(rho1 rho2 N), drawn
        from all classes alike, are replaced by images of the pool, and the rest get closed-set noise.  All other images
        stay clean.
    seed: a non-negative integer.  With a higher rho1 under the same seed, the same images are noisy, and more; with a
        higher rho1 rho2, the same images are replaced, by the same images of the pool, and more.
    include_true: closed-set noise draws from all classes; by default from all classes but the true class.
    keep_label: an open-set image has the label of the image that it replaces (as in MODUL's code); by default, it has
        the label of any class with equal probability.

    The second array holds the number of the image in the pool, 0..pool-1, each at most once, or -1 where an image is
    not replaced.  Raises ValueError for a value outside its range, and for a pool that is too small.

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
    """The transition counts, num_classes x num_classes int64: number of images by true class (row) and given (column).

    If there are open-set images (true label OPEN), a last row counts them.
    """
    rows = np.asarray(true)
    counts = np.zeros((num_classes + 1, num_classes), np.int64)
    np.add.at(counts, (rows, np.asarray(given)), 1)  # OPEN is -1, the last row
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
    """Positions of the round(rate * n_c) labels with the smallest keys in each class."""
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
    """For each class, the class that its chosen labels become: num_classes int64."""
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
