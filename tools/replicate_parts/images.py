"""The images a user has, in whatever layout, as betons: python -m tools.replicate_parts.images KIND DATA OUT ...

Where they are too many for the time, the first of every class; for open-set noise, with the last classes as images of
none of the others.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.data.images.pictures import fit
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.prepared import beton
from dist_rmd.errors import DataError, UserError
from dist_rmd.registry import lookup

BETONS = "betons"
BLOCK = 1000
"""images of a beton that are read at a time"""


def kind_of(data: Path | None) -> str:
    """Which data set of `prepare` reads `data`, or "betons".  Raises DataError where nothing is."""
    if data is None:
        return "digits"
    if not data.is_dir():
        raise DataError(
            f"{data}: no such folder; --data wants sheets, train/ and test/ with a folder a class, or betons"
        )
    if beton.manifest_path(data).exists():
        return BETONS
    if (data / "train" / "index.csv").exists():
        return "sheets"
    return "cifar10" if any(data.glob("cifar-10-*")) else "folder"


def open_source(kind: str, data: Path | None, side: int | None = None) -> RawDataset:
    """The images as `prepare` sees them.  Raises DataError."""
    if kind != BETONS:
        return lookup("data.datasets", kind)(data, side)
    assert data is not None
    dataset = beton.open_dataset(data)
    side = side or dataset.side
    splits = {name: _split(dataset, name, side) for name in ("train", "test")}
    return RawDataset(dataset.name, side, dataset.classes, splits, dataset.verified)


def describe(source: RawDataset) -> str:
    """What there is, in a line."""
    train, test = (len(source.splits[name].labels) for name in ("train", "test"))
    return f"{source.name}, {train:,} for training and {test:,} for tests, {len(source.classes)} classes"


def _split(dataset: beton.Dataset, name: str, side: int) -> Split:
    # Only where it is used: it comes with torch.
    from dist_rmd.data.prepared.beton_file import read_images

    labels = dataset.labels(name)

    @functools.lru_cache(maxsize=2)
    def block(number: int) -> NDArray[np.uint8]:
        return read_images(dataset.beton(name), np.arange(number * BLOCK, min((number + 1) * BLOCK, len(labels))))

    def read(i: int) -> NDArray[np.uint8]:
        return fit(Image.fromarray(block(i // BLOCK)[i % BLOCK]), side)

    return keep(Split(labels, dataset.files(name), read), labels != OPEN)


def keep(split: Split, chosen: NDArray[np.bool_]) -> Split:
    """The images for which `chosen` is true."""
    places = chosen.nonzero()[0].tolist()
    return Split(split.labels[places], [split.files[i] for i in places], lambda i: split.read(places[i]))


def first(split: Split, per_class: int | None) -> Split:
    """The first `per_class` images of every class; all when None."""
    if per_class is None:
        return split
    chosen = np.zeros(len(split.labels), bool)
    for label in np.unique(split.labels):
        chosen[(split.labels == label).nonzero()[0][:per_class]] = True
    return keep(split, chosen)


def with_unknown(source: RawDataset, known: int) -> RawDataset:
    """The first `known` classes; training images of the others are of none of them, and come last."""
    train, test = source.splits["train"], source.splits["test"]
    inside, outside = keep(train, train.labels < known), keep(train, train.labels >= known)
    count = len(inside.labels)
    both = Split(
        np.concatenate([inside.labels, np.full(len(outside.labels), OPEN)]),
        [*inside.files, *(f"open/{file}" for file in outside.files)],
        lambda i: inside.read(i) if i < count else outside.read(i - count),
    )
    splits = {"train": both, "test": keep(test, test.labels < known)}
    return replace(source, classes=source.classes[:known], splits=splits)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser("python -m tools.replicate_parts.images", description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("data", help="folder; - for none")
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int)
    parser.add_argument("--train", type=int, help="images of every class")
    parser.add_argument("--test", type=int, help="images of every class")
    parser.add_argument("--known", type=int, help="classes; images of the others are of none of them")
    given = parser.parse_args(argv)
    try:
        source = open_source(given.kind, None if given.data == "-" else Path(given.data), given.side)
        parts: dict[str, Callable[[Split], Split]] = {
            "train": lambda split: first(split, given.train),
            "test": lambda split: first(split, given.test),
        }
        source = replace(source, splits={name: part(source.splits[name]) for name, part in parts.items()})
        written = beton.write(source if given.known is None else with_unknown(source, given.known), given.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    print(f"{written.side} x {written.side}, {written.sizes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
