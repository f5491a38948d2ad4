"""Pictures that are the same but for how they were saved: another size, quality or format, other colours of light."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ALIKE = 0.98  # correlation of the pixels of two pictures from which on they are the same one, saved twice


def perceptual_hash(image: NDArray[np.uint8]) -> int:
    """64 bits: in an S x S x 3 picture of 9 x 8 grey cells, whether each is brighter than its right neighbour.

    Equal but for a few bits (difference hash, Krawetz 2013) for pictures that look the same.
    """
    grey = np.asarray(Image.fromarray(image).convert("L").resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


def alike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of n pairs of pictures are the same but for how they were saved.  Pictures of one colour: if equal."""
    a, b = (pixels.reshape(len(pixels), -1).astype(np.float32) for pixels in (one, other))
    equal = (a == b).all(axis=1)
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (a, b))
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return equal | ((a * b).sum(axis=1) > ALIKE * size)
