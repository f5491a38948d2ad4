"""WebVision 1.0 in its own layout: images that search engines find for ImageNet's class names (arXiv:1708.02862)."""

from pathlib import Path

import numpy as np

from dist_rmd.data.datasets.base import RawDataset, Split, needs_folder
from dist_rmd.data.datasets.tiny_imagenet import names, text, tiny_imagenet
from dist_rmd.data.images.pictures import read_image
from dist_rmd.errors import ConfigError, DataError

__all__ = ["webvision"]

VALIDATION = ("val_images_256", "val_images")  # in the archives of resized images, and of original images


def webvision(
    origin: Path | None,
    side: int | None,
    *,
    synsets: Path | None = None,
    test: Path | None = None,
    engines: str = "google,flickr",
) -> RawDataset:
    """Images labelled by the class they were searched for, right or wrong: never verified.  `side` is 64 by default.

    origin: the folder that holds info/ (synsets.txt, train_filelist_google.txt, train_filelist_flickr.txt,
        val_filelist.txt), google/, flickr/ and val_images_256/.
    synsets: text with the WordNet ids of the classes to take, such as Tiny ImageNet's wnids.txt (default: all 1000).
    test: folder of Tiny ImageNet's layout, whose validation images and classes are taken instead of WebVision's own.
    engines: which search engines' images: google, flickr, or both with a comma.

    Classes are in the order of their WordNet ids, and have names like those of tiny_imagenet.

    Raises DataError when a part is missing or contradicts another; ConfigError without `origin` and for an unknown
    engine.
    """
    root = needs_folder("webvision", origin)
    side = side or 64
    known = [line.partition(" ")[::2] for line in text(root / "info" / "synsets.txt").split("\n") if line.strip()]
    wanted = _wanted(root, [wnid for wnid, _ in known], synsets, test)
    number = {wnid: label for label, wnid in enumerate(wanted)}
    labels = [number.get(wnid) for wnid, _ in known]  # known class number, as the lists of files have it -> label

    train: list[tuple[str, int]] = []
    for engine in engines.split(","):
        if engine not in ("google", "flickr"):
            raise ConfigError(f"--engines {engines}: choose google, flickr or google,flickr")
        if not (root / engine).is_dir():
            raise DataError(f"{root / engine}: no such folder; fetch it, or choose with --engines")
        train += _listed(root, f"train_filelist_{engine}.txt", "", labels)
    splits = {"train": _split(root, train, side)}
    if test is not None:
        other = tiny_imagenet(test, side)
        return RawDataset("webvision", side, other.classes, splits | {"test": other.splits["test"]}, verified=False)
    place = next((name for name in VALIDATION if (root / name).is_dir()), None)
    if place is None:
        raise DataError(f"{root / VALIDATION[0]}: no such folder; fetch it, or name a Tiny ImageNet with --test")
    splits["test"] = _split(root, _listed(root, "val_filelist.txt", f"{place}/", labels), side)
    words = "\n".join("\t".join(line) for line in known)
    return RawDataset("webvision", side, names(wanted, words), splits, verified=False)


def _wanted(root: Path, known: list[str], synsets: Path | None, test: Path | None) -> list[str]:
    """The WordNet ids of the classes, sorted."""
    if test is not None:
        if synsets is not None:
            raise ConfigError("--synsets and --test both say which classes to take: leave one out")
        synsets = test / "wnids.txt"
    wanted = sorted(set(text(synsets).split() if synsets else known))
    for wnid in wanted:
        if wnid not in known:
            raise DataError(f"{synsets}: {wnid} is not in {root / 'info' / 'synsets.txt'}")
    if len(wanted) < 2:
        raise DataError(f"{synsets or root / 'info' / 'synsets.txt'}: {len(wanted)} classes, but at least 2 are needed")
    return wanted


def _listed(root: Path, file: str, prefix: str, labels: list[int | None]) -> list[tuple[str, int]]:
    """Read a list of lines "google/q0001/name.jpg 0": (path below `root`, label) of images of the classes taken."""
    path = root / "info" / file
    found = []
    for number, line in enumerate(text(path).split("\n"), 1):
        if not line.strip():
            continue
        image, _, synset = line.rstrip().replace("\t", " ").rpartition(" ")
        if not image or not synset.isdecimal() or int(synset) >= len(labels):
            raise DataError(f"{path}: line {number} is not a path and a class in 0..{len(labels) - 1}: {line[:80]!r}")
        label = labels[int(synset)]
        if label is not None:
            found.append((prefix + image, label))
    if not found:
        raise DataError(f"{path}: lists no image of the classes to be taken")
    return found


def _split(root: Path, images: list[tuple[str, int]], side: int) -> Split:
    files = [file for file, _ in images]
    return Split(np.array([label for _, label in images]), files, lambda i: read_image(root / files[i], side))
