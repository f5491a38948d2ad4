"""Adds open-set images, which show none of a dataset's classes, to its training images, for noise.kind=openset."""

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
    """`source` with all images of `folder` added to the end of "train", labelled OPEN.

    folder: images in it and below, of any size and mode.  Where it has folders, each is taken for a class.
    exclude: names of such folders that stay out, because they show what `source` has a class for, by whichever link.
        Names that are not there are counted in a warning and do no harm, since one list serves all subsets of a large
        dataset; but some must be there, and none may only look like a folder's name.

    The shorter side is resized to that of `source`, each pixel the mean of those that it covers (Image.Resampling.BOX,
    as in the 32 x 32 ImageNet of https://arxiv.org/abs/1707.08819), and the centre cropped.

    Raises DataError when no image is left, or `exclude` has no folder's name.
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
    """Those of `names` that are folders in `folder`.  Raises DataError where none is, or one only looks like one."""
    there = folder_names(folder)
    found = [name for name in names if name in there]
    missing = [name for name in names if name not in there]
    for name in missing:
        bare = name.strip("\"',; ")  # what a table's row would have around it
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
    """The names that a text lists, one a line; what follows a # is a comment.

    Raises DataError when it cannot be read or lists nothing.
    """
    names = [name for line in read_text(file).split("\n") if (name := line.partition("#")[0].strip())]
    if not names:
        raise DataError(f"{file}: lists no folder to leave out")
    return names
