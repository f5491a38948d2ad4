"""Finds repeated pictures: the same picture in train and test, or under two labels."""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray


def picture_hash(image: NDArray[np.uint8]) -> int:
    """A 64-bit hash of an image's pixels."""
    return int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8).digest(), "little")


def in_both(train: ArrayLike, test: ArrayLike) -> list[tuple[int, int]]:
    """Find the hashes of `test` that `train` has, too: (place in test, place in train) of each."""
    hashes = np.asarray(train, np.uint64)
    order = np.argsort(hashes, kind="stable")
    wanted = np.asarray(test, np.uint64)
    at = np.minimum(np.searchsorted(hashes[order], wanted), len(hashes) - 1)
    found = np.flatnonzero(hashes[order][at] == wanted)
    return list(zip(found.tolist(), order[at[found]].tolist(), strict=True))


def under_two_labels(hashes: ArrayLike, labels: NDArray[np.int64]) -> list[int]:
    """The places of all pictures that occur more than once and under different labels."""
    _, which = np.unique(np.asarray(hashes, np.uint64), return_inverse=True)
    least, most = np.full(len(which), np.iinfo(np.int64).max), np.full(len(which), np.iinfo(np.int64).min)
    np.minimum.at(least, which, labels)
    np.maximum.at(most, which, labels)
    return np.flatnonzero((least != most)[which]).tolist()


BANDS = 4
"""number of 16-bit parts of a hash: two hashes that differ in fewer bits than this have a part in common"""
MOST = 200
"""a picture is compared with at most so many others of the same part, since all pictures of one colour share parts"""


def near_pairs(hashes: ArrayLike, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of pictures from different groups whose perceptual hashes differ in at most 3 of 64 bits: n x 2 places.

    groups: the number of each picture's group.  Time grows as N log N, and with the number of pictures that look alike;
    each of these is compared with the next MOST pictures only.
    """
    bits = np.asarray(hashes, np.uint64)
    found = [np.zeros((0, 2), np.int64)]
    for band in range(BANDS):
        part = (bits >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((bits, part))
        for step in range(1, min(MOST, len(bits) - 1) + 1):
            one, other = order[:-step], order[step:]
            same = part[one] == part[other]
            if not same.any():
                break
            one, other = one[same], other[same]
            close = (np.bitwise_count(bits[one] ^ bits[other]) < BANDS) & (groups[one] != groups[other])
            found.append(np.sort(np.stack([one[close], other[close]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)
