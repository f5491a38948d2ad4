"""Finds repeated pictures: in train and test, or under two labels."""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray


def picture_hash(image: NDArray[np.uint8]) -> int:
    """64 bits of a hash of the pixels."""
    return int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little")


def in_both(train: ArrayLike, test: ArrayLike) -> list[tuple[int, int]]:
    """(place in test, place in train) of every hash of `test` that is in `train`, too."""
    hashes = np.asarray(train, np.uint64)
    order = np.argsort(hashes, kind="stable")
    wanted = np.asarray(test, np.uint64)
    at = np.minimum(np.searchsorted(hashes[order], wanted), len(hashes) - 1)
    found = np.flatnonzero(hashes[order][at] == wanted)
    return list(zip(found.tolist(), order[at[found]].tolist(), strict=True))


def under_two_labels(hashes: ArrayLike, labels: NDArray[np.int64]) -> list[int]:
    """The places of all pictures that are there more than once and not always under the same label."""
    _, which = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
    least, most = np.full(len(which), np.iinfo(np.int64).max), np.full(len(which), np.iinfo(np.int64).min)
    np.minimum.at(least, which, labels)
    np.maximum.at(most, which, labels)
    return np.flatnonzero((least != most)[which]).tolist()
