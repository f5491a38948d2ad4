"""Handwritten digits: 1,797 real images of 8 x 8 pixels that come with scikit-learn (UCI, E. Alpaydin and C. Kaynak).

https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from dist_rmd.data.datasets.base import Source, Split
from dist_rmd.data.pictures import fit
from dist_rmd.errors import ConfigError

__all__ = ["digits"]

SPLIT_SEED = 20260  # the publisher's split is by writer, which scikit-learn's copy does not tell


def digits(origin: Path | None, side: int | None) -> Source:
    """All digits, 1,437 for training and 360 for testing, stratified by class.  `side` is 8 by default.

    Greys 0..16 become 0..255 in all three channels.  Raises ConfigError for an `origin`: nothing is read from a folder.
    """
    if origin is not None:
        raise ConfigError("digits come with scikit-learn: leave out --from")
    side = side or 8
    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    parts = train_test_split(np.arange(len(images)), test_size=360, random_state=SPLIT_SEED, stratify=bunch.target)

    def split(name: str, members: np.ndarray) -> Split:
        members = np.sort(members)
        files = [f"{name}/{member:04d}" for member in members]
        return Split(
            bunch.target[members].astype(np.int64), files, lambda i: fit(Image.fromarray(images[members[i]]), side)
        )

    splits = {name: split(name, members) for name, members in zip(("train", "test"), parts, strict=True)}
    return Source("digits", side, tuple(str(name) for name in bunch.target_names), splits)
