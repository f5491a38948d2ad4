"""Finds near-duplicate pictures under different labels: at least one of these labels is wrong."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dist_rmd.data.images.alike import alike

CANDIDATES = 5  # nearest neighbours among which an image's twins are sought
CHUNK = 2048  # pairs whose pixels are in memory at a time

Integers = NDArray[np.int64]


def disagreeing_twins(
    nearest: Integers, given: Integers, pictures: Callable[[Integers], NDArray[np.uint8]]
) -> Integers:
    """The number of each image's group of twins under different labels, from 0 on, or -1 without a group: N int64.

    nearest: N x k, the nearest neighbours of each image by some features, the nearest first; twins are sought among
        these alone.
    given: N labels.  Twins whose labels are all the same make no group.
    pictures: positions of n images, n int64 -> their pixels, n x S x S x 3 uint8.
    """
    count = len(given)
    first = np.repeat(np.arange(count), min(CANDIDATES, nearest.shape[1]))
    second = nearest[:, :CANDIDATES].reshape(-1)
    pairs = np.unique(np.sort(np.stack([first, second], axis=1), axis=1), axis=0)
    parts = np.split(pairs, range(CHUNK, len(pairs), CHUNK))
    same = np.concatenate([alike(pictures(part[:, 0]), pictures(part[:, 1])) for part in parts])
    one, other = pairs[same].T
    links = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    _, group = connected_components(links, directed=False)
    least, most = np.full(count, given.max() + 1), np.full(count, -1)
    np.minimum.at(least, group, given)
    np.maximum.at(most, group, given)
    numbers = np.cumsum(least < most) - 1  # groups of one label, or of one image, have no number
    return np.where((least < most)[group], numbers[group], -1)
