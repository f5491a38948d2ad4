"""Wrong labels, made on purpose: corrupt(labels, kind, rate, ...) -> labels of which some are wrong.

Every random choice comes from the raw 64-bit words of numpy's Philox.  That stream is fixed for ever, unlike those of
numpy's distributions: a seed gives the same labels on every platform and under every version of numpy.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Labels = NDArray[np.int64]


def corrupt(labels: ArrayLike, kind: str, rate: float, num_classes: int, seed: int) -> Labels:
    """A copy of `labels` (N integers in 0..num_classes-1), N int64, in which some labels of every class are wrong.

    kind: "none" leaves all labels as they are; "symmetric" is described at `_symmetric`.
    rate: the fraction of each class's labels that become wrong, in [0, 1].
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
    return KINDS[kind](clean.astype(np.int64), rate, num_classes, seed)


def _none(labels: Labels, rate: float, num_classes: int, seed: int) -> Labels:
    return labels


def _symmetric(labels: Labels, rate: float, num_classes: int, seed: int) -> Labels:
    """Move exactly round(rate * n_c) labels of each class c, each to one of the other classes with equal probability.

    The true class is never the target, as in RMDNet ("onto the labels of the other classes") and MODUL's text.
    DivideMix and ELR include it: their rate r corresponds to r * (1 - 1/num_classes) here.
    """
    if num_classes < 2:
        raise ValueError("symmetric noise needs at least 2 classes")
    words = np.random.Philox(np.random.SeedSequence(seed)).random_raw(2 * len(labels))
    keys, targets = words.reshape(2, -1)
    sizes = np.bincount(labels, minlength=num_classes)
    shuffled = np.split(np.lexsort((keys, labels)), np.cumsum(sizes)[:-1])  # per class: its positions in random order
    moved = np.concatenate([members[: round(rate * len(members))] for members in shuffled])
    away = 1 + targets[moved] % np.uint64(num_classes - 1)  # 1..C-1 steps from the true class; bias below 2**-50
    noisy = labels.copy()
    noisy[moved] = (labels[moved] + away.astype(np.int64)) % num_classes
    return noisy


KINDS: dict[str, Callable[[Labels, float, int, int], Labels]] = {"none": _none, "symmetric": _symmetric}
