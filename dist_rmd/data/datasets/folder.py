"""Your own images: DIR/train/<class>/* and DIR/test/<class>/*, as torchvision's ImageFolder wants them."""

import warnings
from pathlib import Path

import numpy as np

from dist_rmd.data.datasets.base import SUFFIXES, Source, Split, image_files, needs_folder, read_image
from dist_rmd.errors import DataError

__all__ = ["folder"]


def folder(origin: Path | None, side: int | None) -> Source:
    """PNG, JPEG, WebP, BMP and GIF images of any size and mode, also deeper below <class>.  `side` is 32 by default.

    The classes are the folders of train/, in alphabetical order.  A class may lack test images (a warning says so).

    Raises DataError when train/ or test/ is missing, train/ has fewer than two classes or one without images, or test/
    has a class that train/ does not know; ConfigError without `origin`.
    """
    root = needs_folder("folder", origin)
    side = side or 32
    classes = _classes(root / "train")
    tested = _classes(root / "test")
    if len(classes) < 2:
        raise DataError(f"{root / 'train'}: {len(classes)} class folders, but at least 2 are needed: train/<class>/*")
    for name in tested:
        if name not in classes:
            raise DataError(f"{root / 'test' / name}: a class that train/ does not have; rename it or take it out")
    if not tested:
        raise DataError(f"{root / 'test'}: no class folders; test images belong into test/<class>/*")
    missing = [name for name in classes if name not in tested]
    if missing:
        warnings.warn(f"{root / 'test'}: {len(missing)} classes without test images, {missing[0]} first", stacklevel=2)
    splits = {"train": _split(root, "train", classes, side), "test": _split(root, "test", classes, side)}
    return Source("folder", side, tuple(classes), splits)


def _classes(place: Path) -> list[str]:
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; the images belong into train/<class>/* and test/<class>/*")
    return sorted(entry.name for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _split(root: Path, name: str, classes: list[str], side: int) -> Split:
    labels: list[int] = []
    files: list[str] = []
    for label, class_name in enumerate(classes):
        place = root / name / class_name
        if not place.is_dir():
            continue
        found = [str(path.relative_to(root)) for path in image_files(place)]
        if not found:
            raise DataError(f"{place}: no images ({', '.join(SUFFIXES)}); add some or take the folder out")
        files += found
        labels += [label] * len(found)
    return Split(np.array(labels, np.int64), files, lambda i: read_image(root / files[i], side))
