"""Tiny ImageNet in its own layout (Stanford CS231n; http://cs231n.stanford.edu/tiny-imagenet-200.zip)."""

from collections import Counter
from pathlib import Path

import numpy as np

from dist_rmd.data.datasets.base import Source, Split, image_files, needs_folder, read_image
from dist_rmd.errors import DataError

__all__ = ["tiny_imagenet"]


def tiny_imagenet(origin: Path | None, side: int | None) -> Source:
    """train/<wnid>/images/* to learn from, val/ to test on (test/ has no labels).  `side` is 64 by default.

    origin: the folder that holds wnids.txt, words.txt, train/ and val/ with val_annotations.txt; it may hold fewer than
    the 200 classes.  Classes are in the order of their wnids.  A class is called by its first name in words.txt; where
    two classes share it, or there is none, the wnid tells them apart.

    Raises DataError when one of these is missing or contradicts another; ConfigError without `origin`.
    """
    root = needs_folder("tiny_imagenet", origin)
    side = side or 64
    wnids = sorted(set(text(root / "wnids.txt").split()))
    number = {wnid: label for label, wnid in enumerate(wnids)}

    train: list[tuple[str, int]] = []
    for wnid in wnids:
        found = list(image_files(root / "train" / wnid / "images"))
        if not found:
            raise DataError(f"{root / 'train' / wnid / 'images'}: no images of a class that wnids.txt lists")
        train += [(str(path.relative_to(root)), number[wnid]) for path in found]

    annotations = root / "val" / "val_annotations.txt"
    test: list[tuple[str, int]] = []
    for line in text(annotations).splitlines():
        name, wnid, *_box = [*line.split("\t"), ""]
        if wnid not in number:
            raise DataError(f"{annotations}: {name} is of class {wnid!r}, which wnids.txt does not list")
        test.append((f"val/images/{name}", number[wnid]))
    if not test:
        raise DataError(f"{annotations}: lists no images")

    splits = {"train": _split(root, train, side), "test": _split(root, test, side)}
    return Source("tiny_imagenet", side, names(wnids, text(root / "words.txt")), splits)


def _split(root: Path, images: list[tuple[str, int]], side: int) -> Split:
    files = [file for file, _ in images]
    labels = np.array([label for _, label in images], np.int64)
    return Split(labels, files, lambda i: read_image(root / files[i], side))


def names(wnids: list[str], words: str) -> tuple[str, ...]:
    """What classes are called; `words` has lines "n02124075<tab>Egyptian cat, other name"."""
    synonyms = dict(line.split("\t", 1) for line in words.splitlines() if "\t" in line)
    first = [synonyms.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    uses = Counter(first)
    return tuple(name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(first, wnids, strict=True))


def text(path: Path) -> str:
    """The content of a file of the layout.  Raises DataError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: {reason}; it belongs to the published layout of the dataset") from None
