"""Wrong labels, made on purpose: corrupt(labels, kind, rate, ...) -> labels of which some are wrong.

Every random choice comes from the raw 64-bit words of numpy's Philox.  That stream is fixed for ever, unlike those of
numpy's distributions: a seed gives the same labels on every platform and under every version of numpy.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Labels = NDArray[np.int64]

KINDS = ("none", "symmetric", "asymmetric", "pairflip")


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
    """
    if kind not in KINDS:
        raise ValueError(f"unknown noise kind {kind!r}: choose from {', '.join(KINDS)}")
    if not 0 <= rate <= 1:
        raise ValueError(f"noise rate {rate} is outside [0, 1]")
    clean = np.asarray(labels)
    if clean.ndim != 1 or clean.dtype.kind not in "iu":
        raise ValueError(f"labels must be a list of integers, not {clean.dtype} of shape {clean.shape}")
    if clean.size and not 0 <= clean.min() <= clean.max() < num_classes:
        raise ValueError(f"labels {clean.min()}..{clean.max()} are outside 0..{num_classes - 1}")
    clean = clean.astype(np.int64)
    if kind == "none":
        return clean
    words = np.random.Philox(np.random.SeedSequence(seed)).random_raw(2 * len(clean))
    keys, targets = words.reshape(2, -1)
    chosen = _exactly(clean, keys, rate, num_classes) if exact else np.flatnonzero(keys < rate * 2.0**64)
    noisy = clean.copy()
    if kind == "symmetric":
        noisy[chosen] = _uniform(clean[chosen], targets[chosen], num_classes, include_true)
    else:
        noisy[chosen] = _table(kind, class_map, num_classes)[clean[chosen]]
    return noisy


def transitions(true: ArrayLike, given: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """num_classes x num_classes int64: how many labels of true class (row) are given as which class (column)."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (np.asarray(true), np.asarray(given)), 1)
    return counts


def _exactly(labels: Labels, keys: NDArray[np.uint64], rate: float, num_classes: int) -> NDArray[np.int64]:
    """Positions of round(rate * n_c) labels of each class: those with the smallest keys."""
    sizes = np.bincount(labels, minlength=num_classes)
    shuffled = np.split(np.lexsort((keys, labels)), np.cumsum(sizes)[:-1])  # per class: its positions in random order
    return np.concatenate([members[: round(rate * len(members))] for members in shuffled])


def _uniform(labels: Labels, words: NDArray[np.uint64], num_classes: int, include_true: bool) -> Labels:
    if num_classes < 2:
        raise ValueError("symmetric noise needs at least 2 classes")
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
