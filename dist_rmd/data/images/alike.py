"""Recognises a picture that was saved twice in different ways: another size, quality, format or brightness."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ALIKE = 0.98  # least correlation between the pixels of a picture that was saved twice


def perceptual_hash(image: NDArray[np.uint8]) -> int:
    """The difference hash (Krawetz 2013) of an S x S x 3 picture, 64 bits, which differs in few bits for equal looks.

    Each bit tells whether a cell of the picture, reduced to 9 x 8 grey cells, is brighter than its right neighbour.
    """
    grey = np.asarray(Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


def alike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of n pairs are the same picture, saved in different ways: n bool.  Pictures of one colour must be equal."""
    a, b = (pixels.reshape(len(pixels), -1).astype(np.float32) for pixels in (one, other))
    equal = (a == b).all(axis=1)
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (a, b))
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return equal | ((a * b).sum(axis=1) > ALIKE * size)
