"""What a dataset is to `prepare`: two splits of labelled images, read one by one; and how a picture becomes pixels.

Its function is (origin, side) -> Source; keyword-only parameters, where it has any, become options of `prepare`.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dist_rmd.errors import ConfigError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


class UnreadableImage(DataError):
    """An image that cannot be decoded.  The message names its path."""


@dataclass(frozen=True)
class Split:
    """N labelled images.

    labels: N class numbers, int64.
    files: N distinct names, relative to the source, such as "train/cat/0001.png".
    read: i -> image i, side x side x 3 uint8.  Called from several threads.  May raise UnreadableImage.
    """

    labels: NDArray[np.int64]
    files: list[str]
    read: Callable[[int], NDArray[np.uint8]]


@dataclass(frozen=True)
class Source:
    """A dataset as its publisher or owner gives it: square RGB images of one side, in the splits "train" and "test".

    verified: the labels of "train" are right; otherwise nobody knows.  Those of "test" always are.
    excluded: the classes of other images that were left out when these were added to "train" (data/open_set.py).
    """

    name: str
    side: int
    classes: tuple[str, ...]
    splits: dict[str, Split]
    verified: bool = True
    excluded: tuple[str, ...] = ()


def fit(image: Image.Image, side: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> NDArray[np.uint8]:
    """Resize the shorter side to `side` (antialiased), crop the centre: side x side x 3 uint8 RGB.

    An image of that size keeps its pixels.  Transparent parts show white, the page that such pictures are drawn for.
    """
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(ImageOps.fit(image.convert("RGB"), (side, side), resampling))


def read_image(path: Path, side: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> NDArray[np.uint8]:
    """Decode an image file (the first frame of an animation), turned upright as its EXIF says, and `fit` it.

    Raises UnreadableImage.
    """
    try:
        with Image.open(path) as image:
            return fit(ImageOps.exif_transpose(image), side, resampling)
    except Exception as error:  # Pillow's decoders raise some ten kinds of exception on broken files
        reason = " ".join(str(error).replace(repr(str(path)), "it").split())
        raise UnreadableImage(f"{path}: unreadable image ({reason})") from None


def image_files(folder: Path) -> Iterator[Path]:
    """All images in `folder` and below, in the order of their names.  Hidden files and folders do not count.

    Warns of files that are no images.  Raises DataError when a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")

    ignored = []
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            if name.lower().endswith(SUFFIXES):
                yield Path(place, name)
            else:
                ignored.append(Path(place, name))
    if ignored:
        warnings.warn(f"{folder}: left out {len(ignored)} files that are no images, {ignored[0]} first", stacklevel=2)


def needs_folder(name: str, origin: Path | None) -> Path:
    """`origin`, where a dataset must be read from.  Raises ConfigError without one, DataError if it is no folder."""
    if origin is None:
        raise ConfigError(f"{name} is read from your disk: say where with --from DIR")
    if not origin.is_dir():
        raise DataError(f"{origin}: no such folder")
    return origin
