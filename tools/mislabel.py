#!/usr/bin/env python
"""A folder of images as people have them, some under wrong labels, and a list of the right ones to compare with.

    python tools/mislabel.py data/cifar10 pets --classes bird,cat,deer,dog,horse --seed 0

writes pets/train/<class>/*.png, a quarter of them (--rate) under one of the other classes at random, all of
pets/test/<class>/* under their own, and pets/truth.csv (file, label) with the right labels of train/.  The images are
drawn from a prepared dataset by the seed; nothing of the folder or of a file's name tells which labels are wrong.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dist_rmd.data.prepared.beton import Dataset, open_dataset  # noqa: E402
from dist_rmd.errors import ConfigError, UserError  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a prepared dataset whose labels are right")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--classes", help="which classes, with commas (default: all)")
    parser.add_argument("--train", type=int, default=400, help="training images of each class (default: 400)")
    parser.add_argument("--test", type=int, default=200, help="test images of each class (default: 200)")
    parser.add_argument("--rate", type=float, default=0.25, help="share of the labels that are wrong (default: 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="draws the images and the wrong labels (default: 0)")
    args = parser.parse_args(argv)
    try:
        dataset = open_dataset(args.data)
        classes = args.classes.split(",") if args.classes else list(dataset.classes)
        if unknown := [name for name in classes if name not in dataset.classes]:
            raise ConfigError(f"--classes {unknown[0]}: {args.data} has {', '.join(dataset.classes)}")
        if args.out.exists():
            raise ConfigError(f"{args.out}: is there already; choose another folder")
        write(dataset, args.out, classes, {"train": args.train, "test": args.test}, args.rate, args.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


def write(dataset: Dataset, out: Path, classes: Sequence[str], images: dict[str, int], rate: float, seed: int) -> None:
    """Write the folder.  Raises ConfigError where a class has not as many images as asked for."""
    rng = np.random.default_rng(seed)
    truth = []
    for split, count in images.items():
        labels = dataset.labels(split)
        chosen, given = [], []
        for place, name in enumerate(classes):
            there = np.flatnonzero(labels == dataset.classes.index(name))
            if len(there) < count:
                raise ConfigError(f"--{split} {count}: {dataset.folder} has {len(there)} {split} images of {name}")
            chosen.append(rng.permutation(there)[:count])
            own = np.full(count, place)
            if split == "train":
                wrong = np.arange(round(rate * count))
                own[wrong] = (place + rng.integers(1, len(classes), len(wrong))) % len(classes)
            given.append(own)
        positions, under = np.concatenate(chosen), np.concatenate(given)
        order = rng.permutation(len(positions))
        for number, at in enumerate(order):
            file = Path(split, classes[under[at]], f"{number:05d}.png")
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(dataset.images(split, positions[at : at + 1])[0]).save(out / file)
            if split == "train":
                truth.append([file.as_posix(), dataset.classes[labels[positions[at]]]])
    with open(out / "truth.csv", "w", newline="", encoding="utf-8") as table:
        csv.writer(table, lineterminator="\n").writerows([["file", "label"], *truth])


if __name__ == "__main__":
    sys.exit(main())
