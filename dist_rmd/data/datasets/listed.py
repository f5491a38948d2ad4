"""Images anywhere in DIR, named by lists, as Clothing1M and many other collections are published."""

import warnings
from pathlib import Path

import numpy as np

from dist_rmd.data.datasets._held_out import with_held_out
from dist_rmd.data.datasets.base import RawDataset, Split, needs_folder
from dist_rmd.data.images.pictures import read_image
from dist_rmd.data.images.trees import image_files
from dist_rmd.data.labels.lists import Entry, read_list
from dist_rmd.data.labels.look_alikes import look_alike
from dist_rmd.errors import DataError
from dist_rmd.text.reader import read_text

__all__ = ["listed"]


def listed(origin: Path | None, side: int | None, *, train: str = "train.csv", test: str = "") -> RawDataset:
    """A list for each split: a table with the columns file and label, or another of the forms of labels/lists.py.

    Files are relative to DIR.  Labels are names or numbers of classes.  Classes are in the order of their numbers where
    all labels are numbers, else of their names.  `side` is 32 by default.  A folder can take the place of a list, with
    images whose names begin with their labels, as in ANIMAL-10N: 5_1234.jpg.  Where there are no test images, a tenth
    of every class is held out.

    train: the list of training images, below DIR, such as noisy_train_kv.txt.
    test: the list of test images, below DIR (default: test.csv, if it is there).

    Raises DataError when a list cannot be read, has one file under two labels, fewer than two classes, or a class that
    the training images do not have; ConfigError without `origin`.
    """
    root = needs_folder("listed", origin)
    side = side or 32
    test = test or ("test.csv" if (root / "test.csv").exists() else "")
    lists = {split: _read(root, root / name) for split, name in (("train", train), ("test", test)) if name}
    classes = _ordered({label for label in lists["train"].values()})
    if len(classes) < 2:
        raise DataError(f"{root / train}: images of {len(classes)} classes, but at least 2 are needed")
    for file, label in lists.get("test", {}).items():
        if label not in classes:
            other = look_alike(label, classes)
            hint = f"; did you mean {other!a}?" if other else ""
            raise DataError(f"{root / test}: {file} is of class {label!a}, which {train} does not have{hint}")
    splits = {name: _split(root, images, classes, side) for name, images in lists.items()}
    source = RawDataset("listed", side, tuple(classes), splits)
    return source if test else with_held_out(source)


def _read(root: Path, path: Path) -> dict[str, str]:
    """Read the images of a list: file -> label, in the list's order."""
    found: dict[str, str] = {}
    repeated = 0
    for line, file, label in _entries(root, path):
        if file is None:
            raise DataError(f"{path}: a list that does not name its images: give it to --labels")
        name = _place(root, file.strip())
        if not label:
            raise DataError(f"{path}: line {line}: {file} has no label")
        if found.setdefault(name, label) != label:
            raise DataError(f"{path}: line {line}: {file} is listed as {found[name]} before, and as {label} here")
        repeated += 1
    if not found:
        raise DataError(f"{path}: lists no images")
    if repeated > len(found):
        warnings.warn(f"{path}: {repeated - len(found)} lines are there twice, and count once", stacklevel=3)
    return found


def _entries(root: Path, path: Path) -> list[Entry]:
    """The entries of a list, or of a folder of images whose names begin with their labels."""
    if path.is_dir():
        names = [image.relative_to(root).as_posix() for image in image_files(path)]
        return [Entry(place, name, _prefix(path, name)) for place, name in enumerate(names, 1)]
    if not read_text(path).strip():
        return []
    try:
        return read_list(path)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _prefix(folder: Path, name: str) -> str:
    """The label that the name of a file begins with."""
    label, mark, _ = name.rpartition("/")[2].partition("_")
    if not mark:
        raise DataError(f"{folder}: {name} does not begin with a label and an underscore, as in 5_1234.jpg")
    return label


def _place(root: Path, name: str) -> str:
    """The path of an image below `root`; Food-101N's lists leave out the folder images/, which holds its images."""
    return name if (root / name).exists() or not (root / "images" / name).exists() else f"images/{name}"


def _ordered(labels: set[str]) -> list[str]:
    return sorted(labels, key=int) if all(label.isdecimal() for label in labels) else sorted(labels)


def _split(root: Path, images: dict[str, str], classes: list[str], side: int) -> Split:
    number = {name: label for label, name in enumerate(classes)}
    files = list(images)
    labels = np.array([number[label] for label in images.values()], np.int64)
    return Split(labels, files, lambda i: read_image(root / files[i], side))
