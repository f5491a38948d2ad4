"""Tiny ImageNet in its own layout (Stanford CS231n; http://cs231n.stanford.edu/tiny-imagenet-200.zip)."""

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dist_rmd.data.datasets.base import RawDataset, Split, needs_folder
from dist_rmd.data.images.pictures import read_image
from dist_rmd.data.images.trees import folder_names, image_files
from dist_rmd.errors import DataError
from dist_rmd.text.reader import read_text

__all__ = ["tiny_imagenet"]


def tiny_imagenet(origin: Path | None, side: int | None) -> RawDataset:
    """train/<wnid>/images/* to learn from, val/ to test on (test/ has no labels).  `side` is 64 by default.

    origin: the folder that holds wnids.txt, words.txt, train/ and val/.  val/ has val_annotations.txt, or a folder for
        each class where people have sorted the images.  There may be fewer than 200 classes.

    Classes are in the order of their wnids.  A class has its first name in words.txt, with the wnid where two classes
    share the name, or the wnid alone where words.txt has no name.

    Raises DataError when one of these files is missing or contradicts another; ConfigError without `origin`.
    """
    root = needs_folder("tiny_imagenet", origin)
    side = side or 64
    wnids = sorted(set(text(root / "wnids.txt").split()))
    number = {wnid: label for label, wnid in enumerate(wnids)}

    train: list[tuple[str, int]] = []
    for wnid in wnids:
        place = root / "train" / wnid / "images"
        if not place.is_dir() and place.parent.is_dir():
            place = place.parent  # people may have moved the images out of images/
        found = list(image_files(place))
        if not found:
            raise DataError(f"{place}: no images of a class that wnids.txt lists")
        train += [(str(path.relative_to(root)), number[wnid]) for path in found]

    others = [name for name in folder_names(root / "train") if name not in number]
    if others:
        warnings.warn(
            f"{root / 'train'}: left out {len(others)} folders that wnids.txt does not list, {others[0]} first",
            stacklevel=2,
        )
    test = _validation(root, number)
    splits = {"train": _split(root, train, side), "test": _split(root, test, side)}
    return RawDataset("tiny_imagenet", side, names(wnids, text(root / "words.txt")), splits)


def _validation(root: Path, number: Mapping[str, int]) -> list[tuple[str, int]]:
    """The images of val/ and their classes, by val_annotations.txt, or by folders where people have sorted val/."""
    annotations = root / "val" / "val_annotations.txt"
    if not annotations.exists():
        sorted_in = [wnid for wnid in number if (root / "val" / wnid).is_dir()]
        found = [(path, number[wnid]) for wnid in sorted_in for path in image_files(root / "val" / wnid)]
        if found:
            return [(str(path.relative_to(root)), label) for path, label in found]
    test = []
    for line in text(annotations).split("\n"):
        if not line.strip():
            continue
        name, wnid, *_box = [*line.split("\t"), ""]
        if wnid not in number:
            raise DataError(f"{annotations}: {name} is of class {wnid!r}, which wnids.txt does not list")
        test.append((f"val/images/{name}", number[wnid]))
    if not test:
        raise DataError(f"{annotations}: lists no images")
    return test


def _split(root: Path, images: list[tuple[str, int]], side: int) -> Split:
    files = [file for file, _ in images]
    labels = np.array([label for _, label in images], np.int64)
    return Split(labels, files, lambda i: read_image(root / files[i], side))


def names(wnids: list[str], words: str) -> tuple[str, ...]:
    """The names of classes; `words` has lines "n02124075<tab>Egyptian cat, other name"."""
    synonyms = dict(line.split("\t", 1) for line in words.split("\n") if "\t" in line)
    first = [synonyms.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    uses = Counter(first)
    return tuple(name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(first, wnids, strict=True))


def text(path: Path) -> str:
    """The text of a file of Tiny ImageNet's layout.  Raises DataError."""
    try:
        return read_text(path)
    except DataError as error:
        raise DataError(f"{error}; it belongs to the published layout of the dataset") from None
