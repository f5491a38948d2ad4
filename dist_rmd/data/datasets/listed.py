"""Images that lists name, wherever they lie in DIR, as Clothing1M and many other collections are published."""

import re
import warnings
from pathlib import Path

import numpy as np

from dist_rmd.data.datasets.base import RawDataset, Split, needs_folder
from dist_rmd.data.images.pictures import read_image
from dist_rmd.data.labels.look_alikes import look_alike
from dist_rmd.errors import DataError
from dist_rmd.text.reader import read_table, read_text

__all__ = ["listed"]

NEEDED = ("file", "label")
LINE = re.compile(r"(?P<file>\S.*?)[ \t]+(?P<label>\S+)")


def listed(origin: Path | None, side: int | None, *, train: str = "train.csv", test: str = "test.csv") -> RawDataset:
    """A text for each split: a table with the columns file and label, or lines of a file and its label with a blank.

    Files are relative to DIR.  Labels are names or numbers of classes, which are in the order of their names, or of
    their numbers where all are such.  `side` is 32 by default.

    train: the list of training images, below DIR, such as noisy_train_kv.txt.
    test: the list of test images, below DIR.

    Raises DataError when a list cannot be read, has one file under two labels, fewer than two classes, or a class that
    the training images do not have; ConfigError without `origin`.
    """
    root = needs_folder("listed", origin)
    side = side or 32
    lists = {"train": _read(root / train), "test": _read(root / test)}
    classes = _ordered({label for label in lists["train"].values()})
    if len(classes) < 2:
        raise DataError(f"{root / train}: images of {len(classes)} classes, but at least 2 are needed")
    for file, label in lists["test"].items():
        if label not in classes:
            other = look_alike(label, classes)
            hint = f"; did you mean {other!a}?" if other else ""
            raise DataError(f"{root / test}: {file} is of class {label!a}, which {train} does not have{hint}")
    splits = {name: _split(root, images, classes, side) for name, images in lists.items()}
    return RawDataset("listed", side, tuple(classes), splits)


def _read(path: Path) -> dict[str, str]:
    """File -> label, in the list's order."""
    found: dict[str, str] = {}
    repeated = 0
    for line, file, label in _lines(path):
        if not label:
            raise DataError(f"{path}: line {line}: {file} has no label")
        if found.setdefault(file, label) != label:
            raise DataError(f"{path}: line {line}: {file} is listed as {found[file]} before, and as {label} here")
        repeated += 1
    if not found:
        raise DataError(f"{path}: lists no images")
    if repeated > len(found):
        warnings.warn(f"{path}: {repeated - len(found)} lines are there twice, and count once", stacklevel=3)
    return found


def _lines(path: Path) -> list[tuple[int, str, str]]:
    """(line, file, label) of a table, or of lines with a blank."""
    lines = read_text(path).split("\n")
    if all(re.search(rf"(^|[,;\t \"]){name}([,;\t \"]|$)", lines[0]) for name in NEEDED):
        return [(line, row["file"].strip(), row["label"].strip()) for line, row in read_table(path, NEEDED).rows]
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            parts = LINE.fullmatch(line.strip())
            if parts is None:
                raise DataError(
                    f"{path}: line {number} is no file and label with a blank between, and the first line does not "
                    f"name the columns {' and '.join(NEEDED)}: {line[:80]!a}"
                )
            found.append((number, parts["file"], parts["label"]))
    return found


def _ordered(labels: set[str]) -> list[str]:
    return sorted(labels, key=int) if all(label.isdecimal() for label in labels) else sorted(labels)


def _split(root: Path, images: dict[str, str], classes: list[str], side: int) -> Split:
    number = {name: label for label, name in enumerate(classes)}
    files = list(images)
    labels = np.array([number[label] for label in images.values()], np.int64)
    return Split(labels, files, lambda i: read_image(root / files[i], side))
