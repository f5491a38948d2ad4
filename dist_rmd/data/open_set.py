"""Images of none of a dataset's classes, in one beton with its training images: noise.kind=openset draws from them."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_rmd.data.datasets.base import Source, Split, image_files, read_image
from dist_rmd.data.noise import OPEN
from dist_rmd.errors import DataError


def with_open_set(source: Source, folder: Path, exclude: Collection[str] = ()) -> Source:
    """`source` with all images of `folder` added to the end of "train", labelled OPEN.

    folder: images in it and below, of any size and mode.  Where it has folders, each is taken for a class.
    exclude: names of such folders that stay out, because they show what `source` has a class for.  Names that are not
        there do no harm, since one list serves all subsets of a large dataset, but some must be.

    The shorter side is resized to that of `source`, each pixel the mean of those that it covers (Image.Resampling.BOX,
    as in the 32 x 32 ImageNet of https://arxiv.org/abs/1707.08819), and the centre cropped.

    Raises DataError when no image is left, or `exclude` has no folder's name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    excluded = sorted(name for name in exclude if (folder / name).is_dir())
    if exclude and not excluded:
        raise DataError(f"{folder}: has none of the {len(exclude)} folders to be left out, such as {min(exclude)}")
    paths = [path for path in image_files(folder) if path.relative_to(folder).parts[0] not in excluded]
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


def read_exclusions(file: Path) -> list[str]:
    """The names that a text lists, one a line; what follows a # is a comment.

    Raises DataError when it cannot be read or lists nothing.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: {error.strerror if isinstance(error, OSError) else error}") from None
    names = [name for line in lines if (name := line.partition("#")[0].strip())]
    if not names:
        raise DataError(f"{file}: lists no folder to leave out")
    return names
