"""Decodes image files to pixels."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from dist_rmd.data.images.metadata import without_metadata
from dist_rmd.errors import DataError

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> the transposition that turns the picture upright"""
MILLION = 10**6


class UnreadableImage(DataError):
    """An image that cannot be decoded.  The message names its path."""


def allow_pixels(megapixels: float) -> None:
    """Allow images of up to `megapixels` million pixels.  Pillow's default allows 179 million, twice its own limit."""
    Image.MAX_IMAGE_PIXELS = int(megapixels * MILLION / 2)


def fit(image: Image.Image, side: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> NDArray[np.uint8]:
    """Resize the shorter side to `side` (antialiased), crop the centre: side x side x 3 uint8 RGB.

    An image of this size keeps its pixels.  Transparent parts become white, the usual background.

    Raises ValueError for floating-point pixels and pixels of more than 16 bits, since their level of white is unknown.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels, of which nobody says what is white: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("pixels of more than 16 bits: save it with 8 or 16")
        image = Image.fromarray((grey / 257).round().astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(ImageOps.fit(image.convert("RGB"), (side, side), resampling))


def read_image(path: Path, side: int, resampling: Image.Resampling = Image.Resampling.BICUBIC) -> NDArray[np.uint8]:
    """Decode an image file (the first frame of an animation), turned upright as its EXIF says, and `fit` it.

    Unreadable metadata are ignored.  Raises UnreadableImage.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise UnreadableImage(f"{path}: unreadable image (it is no file)")
    try:
        return _decoded(path, side, resampling)
    except Image.DecompressionBombError as error:
        raise UnreadableImage(f"{path}: {error}; --max-megapixels allows larger ones") from None
    except Exception as error:  # Pillow's decoders raise some ten kinds of exception on broken files
        try:
            return _decoded(io.BytesIO(without_metadata(path.read_bytes()) or b""), side, resampling)
        except Exception:
            reason = " ".join(str(error).replace(repr(str(path)), "it").split())
            raise UnreadableImage(f"{path}: unreadable image ({reason})") from None


def _decoded(file: Path | io.BytesIO, side: int, resampling: Image.Resampling) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        return fit(image if turn is None else image.transpose(turn), side, resampling)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a broken tag anywhere in the metadata raises one of some ten kinds
        return 1
