"""Your own images: DIR/train/<class>/* and DIR/test/<class>/*, as torchvision's ImageFolder wants them."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def folder(origin: Path | None, side: int | None, *, train: str = "train", test: str = "test") -> RawDataset:
    """PNG, JPEG, WebP, BMP, GIF, TIFF and PPM images of any size and mode, also deeper below <class>.

    `side` is 32 by default.  The classes are the folders of train/, in alphabetical order.  A class may lack test
    images; a warning says so, and what lies where nothing reads it.

    train: the folder of DIR with the training images.
    test: the folder of DIR with the test images, such as val.

    Raises DataError when train/ or test/ is missing, train/ has fewer than two classes or one without images, or test/
    has a class that train/ does not know; ConfigError without `origin`, and for a split that is no folder of it.
    """
    root = needs_folder("folder", origin)
    side = side or 32
    names = {"train": train, "test": test}
    classes, tested = (_classes(root, split, names) for split in names)
    if len(classes) < 2:
        flat = _flat(root / train)
        raise DataError(
            f"{root / train}: {len(classes)} class folders, but at least 2 are needed: {train}/<class>/*{flat}"
        )
    for name in tested:
        if name not in classes:
            raise DataError(f"{root / test / name}: a class that {train}/ does not have{_meant(name, classes, tested)}")
    if not tested:
        raise DataError(
            f"{root / test}: no class folders; test images belong into {test}/<class>/*{_flat(root / test)}"
        )
    missing = [name for name in classes if name not in tested]
    if missing:
        warnings.warn(f"{root / test}: {len(missing)} classes without test images, {missing[0]} first", stacklevel=2)
    for name in classes:
        if other := look_alike(name, classes[: classes.index(name)]):
            warnings.warn(
                f"{root / train}: {other!a} and {name!a} are two classes, which differ in {difference(name, other)}",
                stacklevel=2,
            )
    _mention_strays(root, names)
    splits = {split: _split(root, place, classes, side) for split, place in names.items()}
    return RawDataset("folder", side, tuple(classes), splits)


def _classes(root: Path, split: str, names: dict[str, str]) -> list[str]:
    place = root / names[split]
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
    """What to say of a split whose images lie beside each other."""
    count = len(images_beside(place))
    return f"; {count} images lie in it directly, whose classes no folder tells" if count else ""


def _meant(name: str, classes: Sequence[str], tested: Sequence[str]) -> str:
    """What to do about a test class that is unknown."""
    other = look_alike(name, [known for known in classes if known not in tested])
    if other is None:
        return "; rename it or take it out"
    return f", whose {other!a} differs from {name!a} in {difference(name, other)}; rename one of them"


def _mention_strays(root: Path, names: dict[str, str]) -> None:
    """Warn of images of `root` that belong to no class of a split."""
    for place in (root, *(root / name for name in names.values())):
        if beside := images_beside(place):
            warnings.warn(
                f"{place}: left out {len(beside)} images in no class folder, {beside[0].name} first", stacklevel=3
            )
    for name in folder_names(root):
        if name not in names.values() and holds_images(root / name):
            warnings.warn(f"{root / name}: left out, with the images in it: neither train nor test", stacklevel=3)
