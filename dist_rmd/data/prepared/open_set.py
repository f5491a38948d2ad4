"""Adds open-set images, which show none of a dataset's classes, to a dataset, for noise.kind=openset."""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.data.images.pictures import read_image
from dist_rmd.data.images.trees import folder_names, image_files
from dist_rmd.data.labels.look_alikes import look_alike
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.errors import DataError
from dist_rmd.text.reader import read_text


def with_open_set(source: RawDataset, folder: Path, exclude: Collection[str] = ()) -> RawDataset:
    """`source` with all images of `folder` appended to "train" under the label OPEN.

    folder: holds images of any size and mode, directly or in folders.  Each folder directly in `folder` is a class.
    exclude: names of class folders to leave out, because `source` has a class of the same objects; an excluded folder
        stays out under any link to it, too.  Since one list serves all subsets of a large dataset, names without a
        folder only give a warning; but at least one name must have a folder, and no name may merely look like one.

    The shorter side of an image is resized to that of `source`, where each pixel is the mean of the pixels that it
    covers (Image.Resampling.BOX, as in the 32 x 32 ImageNet of https://arxiv.org/abs/1707.08819); then the centre is
    cropped.

    Raises DataError when no image is left, when no name in `exclude` has a folder, and when a name only looks like one.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    excluded = _excluded(folder, sorted({*exclude}))
    paths = list(image_files(folder, without=[folder / name for name in excluded]))
    if not paths:
        raise DataError(f"{folder}: no images to draw from")
    train = source.splits["train"]
    count = len(train.labels)

    def read(i: int) -> NDArray[np.uint8]:
        return train.read(i) if i < count else read_image(paths[i - count], source.side, Image.Resampling.BOX)

    both = Split(
        labels=np.concatenate([train.labels, np.full(len(paths), OPEN)]),
        files=[*train.files, *(f"open/{path.relative_to(folder)}" for path in paths)],
        read=read,
    )
    return replace(source, splits={**source.splits, "train": both}, excluded=tuple(excluded))


def _excluded(folder: Path, names: Sequence[str]) -> list[str]:
    """The names among `names` that are folders in `folder`.

    Raises DataError where no name is a folder, or a name only looks like a folder's.
    """
    there = folder_names(folder)
    found = [name for name in names if name in there]
    missing = [name for name in names if name not in there]
    for name in missing:
        bare = name.strip("\"',; ")  # without the marks that a row of a table puts around a name
        if other := bare if bare in there else look_alike(name, there):
            raise DataError(f"{folder}: has no {name!a} to leave out, but {other!a}: mend the list")
    if names and not found:
        raise DataError(f"{folder}: has none of the {len(names)} folders to be left out, such as {names[0]}")
    if missing:
        warnings.warn(
            f"{folder}: {len(missing)} of the {len(names)} folders to be left out are not there, {missing[0]} first",
            stacklevel=3,
        )
    return found


def read_exclusions(file: Path) -> list[str]:
    """Read a list of names from a text file: one name a line; a # begins a comment.

    Raises DataError when the file cannot be read or lists no name.
    """
    names = [name for line in read_text(file).split("\n") if (name := line.partition("#")[0].strip())]
    if not names:
        raise DataError(f"{file}: lists no folder to leave out")
    return names
