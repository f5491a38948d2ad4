"""Handwritten digits: 1,797 real images of 8 x 8 pixels that come with scikit-learn (UCI, E. Alpaydin and C. Kaynak).

https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.data.images.pictures import fit
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.errors import ConfigError

__all__ = ["digits"]

SPLIT_SEED = 20260  # for a split of our own: scikit-learn's copy lacks the writers, by whom the publisher splits


def digits(origin: Path | None, side: int | None, *, open_classes: str = "") -> RawDataset:
    """All digits, 1,437 for training and 360 for testing, stratified by class.  `side` is 8 by default.

    open_classes: digits to take out of the classes, such as 7,8,9; their training images are the open set.

    Greys 0..16 become 0..255 in all three channels.  Raises ConfigError for an `origin`, since no folder is read.
    """
    if origin is not None:
        raise ConfigError("digits come with scikit-learn: leave out --from")
    side = side or 8
    bunch = load_digits()
    opened = _opened(open_classes)
    known = [digit for digit in range(10) if digit not in opened]
    label = np.array([OPEN if digit in opened else known.index(digit) for digit in range(10)])[bunch.target]
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(images)), test_size=360, random_state=SPLIT_SEED, stratify=bunch.target
    )

    def split(*parts: tuple[str, np.ndarray]) -> Split:
        members = np.concatenate([np.sort(part) for _, part in parts])
        files = [f"{folder}/{member:04d}" for folder, part in parts for member in np.sort(part)]
        return Split(label[members].astype(np.int64), files, lambda i: fit(Image.fromarray(images[members[i]]), side))

    splits = {
        "train": split(("train", train[label[train] != OPEN]), ("open", train[label[train] == OPEN])),
        "test": split(("test", test[label[test] != OPEN])),
    }
    return RawDataset("digits", side, tuple(str(digit) for digit in known), splits)


def _opened(text: str) -> set[int]:
    """The digits in a text such as "7,8,9".  Raises ConfigError for other text, and unless two classes are left."""
    words = [word.strip() for word in text.split(",")] if text else []
    if not all(word in tuple("0123456789") for word in words) or len({*words}) > 8:
        raise ConfigError(f"--open-classes {text}: expected up to eight digits, such as 7,8,9")
    return {int(word) for word in words}
