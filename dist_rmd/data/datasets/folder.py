"""Your own images as they lie: train/<class>/* and test/<class>/* or val/<class>/*, or <class>/* alone."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dist_rmd.data.datasets._held_out import with_held_out
from dist_rmd.data.datasets.base import RawDataset, Split, needs_folder
from dist_rmd.data.images.pictures import read_image
from dist_rmd.data.images.trees import (
    SUFFIXES,
    class_folders,
    folder_names,
    holds_images,
    image_files,
    images_beside,
)
from dist_rmd.data.labels.look_alikes import difference, look_alike
from dist_rmd.errors import ConfigError, DataError

__all__ = ["folder"]

TESTS = ("test", "val", "valid", "validation")
"""names of a folder of test images; the first that exists is read"""
SPLITS = ("train", "training", *TESTS, "testing")
"""names of folders that are splits of a dataset rather than classes"""


def folder(origin: Path | None, side: int | None, *, train: str = "", test: str = "") -> RawDataset:
    """PNG, JPEG, WebP, BMP, GIF, TIFF and PPM images of any size and mode, also deeper below <class>.

    DIR holds train/<class>/*, and test/, val/, valid/ or validation/ likewise, or <class>/* alone.  Where there are no
    test images, a tenth of every class is held out, always the same one, whose labels are no better verified than the
    others.  `side` is 32 by default.  The classes are the folders of train/, in alphabetical order.  A warning names
    classes without test images, and images in places where none are read.

    train: the folder of DIR with the training images, where it is not called train.
    test: the folder of DIR with the test images, where it is called neither test nor val.

    Raises DataError when there are fewer than two classes or one without images, or test/ has a class that train/ does
    not know; ConfigError without `origin`, and for a split that is no folder of it.
    """
    root = needs_folder("folder", origin)
    side = side or 32
    there = folder_names(root)
    flat = not (train or test) and not any(name.lower() in SPLITS for name in there)
    train = train or ("." if flat else "train")
    test = test or next((name for name in TESTS if name in there and not flat), "")
    names = {"train": train, **({"test": test} if test else {})}
    known = {split: _classes(root, split, names, flat) for split in names}
    classes = known["train"]
    if len(classes) < 2:
        place = f"{train}/<class>/*" if not flat else "train/<class>/* or <class>/*"
        raise DataError(
            f"{root / train}: {len(classes)} class folders, but at least 2 are needed: {place}{_flat(root / train)}"
        )
    if test:
        _check_tested(root, names, classes, known["test"])
    for name in classes:
        if other := look_alike(name, classes[: classes.index(name)]):
            warnings.warn(
                f"{root / train}: {other!a} and {name!a} are two classes, which differ in {difference(name, other)}",
                stacklevel=2,
            )
    _mention_strays(root, names, flat)
    splits = {split: _split(root, place, classes, side) for split, place in names.items()}
    source = RawDataset("folder", side, tuple(classes), splits)
    return source if test else with_held_out(source)


def _check_tested(root: Path, names: dict[str, str], classes: Sequence[str], tested: Sequence[str]) -> None:
    """Refuse test images of classes that are not trained on; warn of classes without test images."""
    train, test = names["train"], names["test"]
    for name in tested:
        if name not in classes:
            raise DataError(f"{root / test / name}: a class that {train}/ does not have{_meant(name, classes, tested)}")
    if not tested:
        raise DataError(
            f"{root / test}: no class folders; test images belong into {test}/<class>/*{_flat(root / test)}"
        )
    missing = [name for name in classes if name not in tested]
    if missing:
        warnings.warn(f"{root / test}: {len(missing)} classes without test images, {missing[0]} first", stacklevel=3)


def _classes(root: Path, split: str, names: dict[str, str], flat: bool) -> list[str]:
    place = root / names[split]
    if flat:
        return class_folders(root)
    if root.absolute() not in place.absolute().parents or ".." in place.parts[len(root.parts) :]:
        raise ConfigError(f"--{split} {names[split]}: give the name of a folder in {root}")
    if not place.is_dir():
        there = [name for name in folder_names(root) if name not in names.values()]
        shown = ", ".join(f"{name}/" for name in there[:10])
        hint = f"; {root} has {shown}: --{split} {there[0]} takes one" if there else ""
        raise DataError(f"{place}: no such folder; the images belong into train/<class>/* and test/<class>/*{hint}")
    return class_folders(place)


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


def _flat(place: Path) -> str:
    """The error message for a split whose images lie beside each other, without folders for the classes."""
    count = len(images_beside(place))
    return f"; {count} images lie in it directly, whose classes no folder tells" if count else ""


def _meant(name: str, classes: Sequence[str], tested: Sequence[str]) -> str:
    """The advice in an error message on a test class that train/ does not have."""
    other = look_alike(name, [known for known in classes if known not in tested])
    if other is None:
        return "; rename it or take it out"
    return f", whose {other!a} differs from {name!a} in {difference(name, other)}; rename one of them"


def _mention_strays(root: Path, names: dict[str, str], flat: bool) -> None:
    """Warn of images of `root` that belong to no class of a split."""
    for place in {root: None, **{root / name: None for name in names.values()}}:
        if beside := images_beside(place):
            warnings.warn(
                f"{place}: left out {len(beside)} images in no class folder, {beside[0].name} first", stacklevel=3
            )
    for name in () if flat else folder_names(root):
        if name not in names.values() and holds_images(root / name):
            warnings.warn(f"{root / name}: left out, with the images in it: neither train nor test", stacklevel=3)
