"""The form in which `prepare` takes a dataset: two splits of labelled images, read one by one.

A dataset is a function (origin, side) -> RawDataset, whose keyword-only parameters become options of `prepare`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rmd.errors import ConfigError, DataError


@dataclass(frozen=True)
class Split:
    """N labelled images.

    labels: N class numbers, int64.
    files: N distinct names, relative to the source, such as "train/cat/0001.png".
    read: i -> image i, side x side x 3 uint8.  Called from several threads.  May raise UnreadableImage.
    """

    labels: NDArray[np.int64]
    files: list[str]
    read: Callable[[int], NDArray[np.uint8]]


@dataclass(frozen=True)
class RawDataset:
    """A dataset as its publisher or owner gives it: square RGB images of one side, in the splits "train" and "test".

    verified: whether the labels of "train" are known to be right.
    held_out: whether "test" was held out of the training images, for lack of test images.  If so, nobody has verified
        the labels of "test"; otherwise these are right.
    excluded: the classes of the open-set source that were left out when open-set images were added to "train".
    """

    name: str
    side: int
    classes: tuple[str, ...]
    splits: dict[str, Split]
    verified: bool = True
    held_out: bool = False
    excluded: tuple[str, ...] = ()


def needs_folder(name: str, origin: Path | None) -> Path:
    """`origin`, for a dataset that is read from a folder.  Raises ConfigError if it is None, DataError if no folder."""
    if origin is None:
        raise ConfigError(f"{name} is read from your disk: say where with --from DIR")
    if not origin.is_dir():
        raise DataError(f"{origin}: no such folder")
    return origin
