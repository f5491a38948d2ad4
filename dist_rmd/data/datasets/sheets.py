"""Images tiled into a few large pictures: DIR/train/index.csv and DIR/train/<sheet>.webp, and the same in DIR/test.

A data set of some tens of files is easier to copy from machine to machine than one of 60,000.
"""

import threading
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_rmd.data.datasets.base import RawDataset, Split, needs_folder
from dist_rmd.data.images.pictures import UnreadableImage, fit
from dist_rmd.errors import DataError
from dist_rmd.text.reader import read_table

__all__ = ["sheets"]

TILE = 32
SUFFIXES = (".webp", ".png")
COLUMNS = ("sheet", "cell", "class", "file")

Row = dict[str, str]


def sheets(origin: Path | None, side: int | None) -> RawDataset:
    """Sheets of tiles of 32 x 32 pixels, row by row.  `side` is 32 by default, the pixels as they are.

    index.csv names each image's sheet (a file without its suffix, .webp or .png), cell (0 is the tile at the top left,
    1 the tile to its right), class and file.  Missing sheets of train/ are left out, and so are the test images of
    classes that therefore have no training image; warnings say so.

    Raises DataError when an index.csv is missing or lacks these columns, when no sheet exists, and for fewer than two
    classes; ConfigError without `origin`.
    """
    root = needs_folder("sheets", origin)
    side = side or TILE
    train, test = (_rows(root / name) for name in ("train", "test"))
    classes = sorted({row["class"] for row in train})
    if len(classes) < 2:
        raise DataError(f"{root / 'train'}: images of {len(classes)} classes, but at least 2 are needed: add sheets")
    known = [row for row in test if row["class"] in classes]
    if not known:
        raise DataError(f"{root / 'test'}: no image of a class of train/")
    if len(known) < len(test):
        others = {row["class"] for row in test} - {*classes}
        warnings.warn(f"{root / 'test'}: left out {len(others)} classes that train/ does not have", stacklevel=2)
    splits = {name: _split(root / name, rows, classes, side) for name, rows in (("train", train), ("test", known))}
    return RawDataset("sheets", side, tuple(classes), splits)


def _rows(place: Path) -> list[Row]:
    """The rows of index.csv whose sheets exist."""
    table = read_table(place / "index.csv", needed=COLUMNS)
    for number, row in table.rows:
        if not (row["class"] and row["file"] and row["cell"].isdecimal()):
            raise DataError(f"{place / 'index.csv'}: line {number} has no class, no file, or no number as its cell")
    rows = [row for _, row in table.rows]
    missing = {sheet for sheet in {row["sheet"] for row in rows} if _picture(place, sheet) is None}
    kept = [row for row in rows if row["sheet"] not in missing]
    if not kept:
        raise DataError(f"{place}: none of the sheets that index.csv names is here ({' or '.join(SUFFIXES)})")
    if missing:
        warnings.warn(f"{place}: left out {len(missing)} sheets that are not here, {min(missing)} first", stacklevel=3)
    return kept


def _picture(place: Path, sheet: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := place / f"{sheet}{suffix}").is_file()), None)


def _split(place: Path, rows: list[Row], classes: list[str], side: int) -> Split:
    lock = threading.Lock()  # many threads ask for tiles of the same sheet at once; one decodes the sheet

    @lru_cache(maxsize=2)
    def tiles(sheet: str) -> NDArray[np.uint8]:
        path = _picture(place, sheet) or place / sheet
        try:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
        except Exception as error:  # Pillow's decoders raise some ten kinds of exception on broken files
            raise UnreadableImage(f"{path}: unreadable sheet ({' '.join(str(error).split())})") from None
        high, wide = (length // TILE for length in pixels.shape[:2])
        cut = pixels[: high * TILE, : wide * TILE].reshape(high, TILE, wide, TILE, 3)
        return cut.swapaxes(1, 2).reshape(-1, TILE, TILE, 3)

    def read(i: int) -> NDArray[np.uint8]:
        row = rows[i]
        with lock:
            there = tiles(row["sheet"])
        if int(row["cell"]) >= len(there):
            raise UnreadableImage(f"{place / row['sheet']}: has {len(there)} tiles, no tile {row['cell']}")
        return fit(Image.fromarray(there[int(row["cell"])]), side)

    labels = np.array([classes.index(row["class"]) for row in rows], np.int64)
    return Split(labels, [f"{place.name}/{row['class']}/{row['file']}" for row in rows], read)
