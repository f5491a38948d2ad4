"""A prepared dataset: a folder with FFCV's .beton files, their labels, and a manifest with hashes of both.

train.beton test.beton   fields: image (raw uint8, side x side x 3), index (the image's position in this file)
train.csv test.csv       index,label,class,file: the original label and the source of each image; open-set images, from
                         which noise.kind=openset draws, have label -1 and no class
manifest.json            written last: a folder without a manifest is no dataset
"""

import contextlib
import csv
import hashlib
import json
import math
import os
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.data.images.alike import alike, perceptual_hash
from dist_rmd.data.images.pictures import UnreadableImage
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.prepared.ahead import ahead
from dist_rmd.data.prepared.beton_file import (
    ALLOCATION,
    FIELD,
    FIELD_TYPES,
    HEADER,
    MIN_PAGE,
    RAW,
    REMEDY,
    SAMPLE,
    read_images,
)
from dist_rmd.data.prepared.repeats import in_both, near_pairs, picture_hash, under_two_labels
from dist_rmd.data.prepared.scratch import scratch
from dist_rmd.errors import CannotCreate, DataError
from dist_rmd.files import remove_leftovers, sha256, sync, write_failed, write_json

FORMAT = 3  # of the folder; to be raised when an older reader would misread a newer folder
READABLE = (1, 2, FORMAT)  # 1 has neither open-set images nor unverified labels, 2 has no unverified test labels
LEAST = 16  # smallest side of images among which `write` looks for near repeats
COLUMNS = ["index", "label", "class", "file"]

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]  # (items, split, number of items) -> the same items


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset whose files agree with each other.

    mean, std: of the channels R, G, B of the train images, scaled to 0..1; without open-set images.
    sizes, hashes: per split, the number of images and a SHA-256 over all pixels, labels and file names.
    skipped: per split, the names of unreadable images of the source.
    verified: whether the labels of the train images are known to be right.
    held_out: whether the test images were held out of training images whose labels nobody has verified.
    open_images: number of open-set images among the train images (label OPEN).
    excluded: classes of the open-set source that were left out.
    """

    folder: Path
    name: str
    side: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: dict[str, int]
    hashes: dict[str, str]
    skipped: dict[str, list[str]]
    verified: bool = True
    held_out: bool = False
    open_images: int = 0
    excluded: tuple[str, ...] = ()
    _labels: dict[str, NDArray[np.int64]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def beton(self, split: str) -> Path:
        """The path of a split's .beton file."""
        return _beton_path(self.folder, split)

    def labels(self, split: str) -> NDArray[np.int64]:
        """The original label of every image in the beton's order; OPEN for open-set images.

        The array must not be written to.
        """
        if split not in self._labels:  # read once: a sweep may resolve hundreds of runs on one dataset
            self._labels[split] = np.array([int(row["label"]) for row in self._rows(split)], np.int64)
        return self._labels[split]

    def files(self, split: str) -> list[str]:
        """The name of every image in the source, in the beton's order."""
        return [row["file"] for row in self._rows(split)]

    def images(self, split: str, positions: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """The pixels of all images of a split in the beton's order, or at n positions: n x side x side x 3 (RGB)."""
        return read_images(self.beton(split), np.arange(self.sizes[split]) if positions is None else positions)

    def _rows(self, split: str) -> list[dict[str, str]]:
        return _read_rows(_table_path(self.folder, split))


def write(source: RawDataset, out: Path, skip_bad: bool = False, track: Track | None = None) -> Dataset:
    """Write `source` as a dataset into the folder `out`, and open the dataset.

    skip_bad: leave unreadable images out and list them in the manifest, instead of refusing the dataset.
    track: wraps the iteration over the images of each split, for a progress bar.

    An earlier dataset in `out` stays until the new one is complete; leftovers of killed calls are removed first.
    Memory holds only a few images at a time.  Warns of pictures that occur twice, under two labels or in train and
    test, and of a colour channel that is the same everywhere, whose standard deviation is recorded as 1.  Raises
    DataError (an unreadable image, or a class of train without a readable image), CannotCreate, WriteFailed.
    """
    with contextlib.ExitStack() as leaving:
        try:
            out.mkdir(parents=True, exist_ok=True)
            remove_leftovers(out)
            place = leaving.enter_context(scratch(out))
        except OSError as error:
            raise CannotCreate(f"{out}: cannot be created ({error.strerror})") from None
        try:
            written = {name: _write_split(source, name, place, skip_bad, track) for name in source.splits}
            colours = written["train"].colours
            if not any(colours.std):
                raise DataError(f"{source.name}: all train images have one colour, so there is nothing to learn")
            _warn_of_repeats(source, written)
            _warn_of_near_repeats(source, written, place)
            manifest_path(out).unlink(missing_ok=True)  # from here to the next manifest, `out` is no dataset
            for name in written:
                for path in (_beton_path(place, name), _table_path(place, name)):
                    os.replace(path, out / path.name)
            sync(out)
        except OSError as error:
            raise write_failed(out, error) from None
    for channel, spread in zip("RGB", colours.std, strict=True):
        if not spread:
            warnings.warn(f"{channel} is the same in all train images: its std is taken as 1", stacklevel=2)
    manifest = {
        "format": FORMAT,
        "dataset": source.name,
        "side": source.side,
        "classes": source.classes,
        "verified": source.verified,
        "held_out": source.held_out,
        "excluded": source.excluded,
        "mean": colours.mean,
        "std": [spread or 1.0 for spread in colours.std],
        "splits": {name: split.part for name, split in written.items()},
    }
    write_json(manifest_path(out), manifest)
    return open_dataset(out)


def manifest_path(folder: Path) -> Path:
    """The path of a folder's manifest, which is written last: a folder is a dataset once its manifest exists."""
    return folder / "manifest.json"


def open_dataset(folder: str | Path) -> Dataset:
    """Open the dataset that `prepare` wrote to `folder`, after quick checks.

    The checks read the sizes of the files, the header and sample table of each .beton file, and all labels, but no
    pixels.  Raises DataError, which names the broken file.

    >>> from dist_rmd import open_dataset
    >>> dataset = open_dataset("data/digits")  # dist-rmd prepare digits data/digits
    >>> dataset.sizes
    {'train': 1437, 'test': 360}
    >>> dataset.labels("train")[:3]
    array([0, 1, 2])
    """
    folder = Path(folder)
    manifest = manifest_path(folder)
    if not manifest.is_file():
        raise DataError(f"{folder}: {_missing(folder)}")
    try:
        content = json.loads(manifest.read_bytes())
        if content["format"] not in READABLE:
            raise DataError(f"{manifest}: format {content['format']}, but this version reads up to {FORMAT}; {REMEDY}")
        splits = content["splits"]
        dataset = Dataset(
            folder=folder,
            name=content["dataset"],
            side=int(content["side"]),
            classes=tuple(content["classes"]),
            mean=tuple(map(float, content["mean"])),
            std=tuple(map(float, content["std"])),
            sizes={split: int(splits[split]["images"]) for split in ("train", "test")},
            hashes={split: _hash(splits[split]) for split in ("train", "test")},
            skipped={split: list(splits[split]["skipped"]) for split in ("train", "test")},
            verified=bool(content.get("verified", True)),
            held_out=bool(content.get("held_out", False)),
            open_images=int(splits["train"].get("open", 0)),
            excluded=tuple(content.get("excluded", ())),
        )
        for split in ("train", "test"):
            _check_size(dataset.beton(split), splits[split]["beton"]["bytes"])
            _check_beton(dataset.beton(split), dataset.sizes[split], dataset.side)
            _check_labels(dataset, split, splits[split]["labels"]["sha256"])
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}; {REMEDY}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{manifest}: not a manifest that prepare wrote ({error!r}); {REMEDY}") from None
    return dataset


def _missing(folder: Path) -> str:
    """The error message for a folder without a dataset: the reason, and what to do."""
    if folder.is_dir():
        raw = (folder / "train").is_dir()
        return "no manifest.json, so not a (finished) dataset; " + (
            f"make one of the images in it: python -m dist_rmd.prepare folder OUT --from {folder}" if raw else REMEDY
        )
    if folder.exists():
        return f"a file, but a dataset is the folder that prepare made: {folder.parent}"
    where = "" if folder.is_absolute() else f" below {Path.cwd()}"
    return f"no such dataset{where}; {REMEDY}"


class _Colours:
    """Mean and standard deviation of each channel over all pixels added, exact since the sums are integers."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = self.squares = np.zeros(3, np.int64)

    def add(self, image: NDArray[np.uint8]) -> None:
        pixels = image.reshape(-1, 3).astype(np.int64)
        self.count += len(pixels)
        self.sum = self.sum + pixels.sum(0)
        self.squares = self.squares + (pixels * pixels).sum(0)

    @property
    def mean(self) -> list[float]:
        return (self.sum / self.count / 255).tolist()

    @property
    def std(self) -> list[float]:
        sums = zip(self.sum.tolist(), self.squares.tolist(), strict=True)  # Python's integers do not overflow
        return [math.sqrt(self.count * squares - total**2) / self.count / 255 for total, squares in sums]


@dataclass(frozen=True)
class _Written:
    """A split that has been written."""

    part: dict[str, Any]
    """the split's part of the manifest"""
    kept: list[int]
    """places of the split's images in the source"""
    hashes: array
    """hash of each image's pixels"""
    looks: array
    """perceptual hash of each image"""
    colours: _Colours


def _write_split(source: RawDataset, name: str, place: Path, skip_bad: bool, track: Track | None) -> _Written:
    """Write <name>.beton and <name>.csv into `place`."""
    split, kept, skipped = source.splits[name], [], []
    colours, hashes, looks = _Colours(), array("Q"), array("Q")

    def readable() -> Iterator[NDArray[np.uint8]]:
        images: Iterable[NDArray[np.uint8] | UnreadableImage] = _decoded(split)
        if track:
            images = track(images, name, len(split.labels))
        for i, image in enumerate(images):
            if not isinstance(image, UnreadableImage):
                kept.append(i)
                hashes.append(picture_hash(image))
                looks.append(perceptual_hash(image))
                if split.labels[i] != OPEN:
                    colours.add(image)
                yield image
            elif skip_bad:
                skipped.append(split.files[i])
            else:
                raise UnreadableImage(f"{image}; mend or remove it, or leave out such images with --skip-bad")

    beton, table = _beton_path(place, name), _table_path(place, name)
    if len(split.labels):
        _write_beton(beton, readable(), len(split.labels), source.side)
    if not colours.count:
        images = (split.labels != OPEN).sum()
        raise DataError(f"{source.name}: none of the {images} {name} images can be read")
    _check_classes(source, name, split.labels[kept])
    with open(table, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for index, i in enumerate(kept):
            label = split.labels[i]
            rows.writerow([index, label, "" if label == OPEN else source.classes[label], split.files[i]])
    for path in (beton, table):
        sync(path)
    opened = int((split.labels[kept] == OPEN).sum())
    part = {
        "images": len(kept),
        "open": opened,
        "beton": _stamp(beton),
        "labels": _stamp(table),
        "skipped": skipped,
    }
    return _Written(part, kept, hashes, looks, colours)


def _beton_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.beton"


def _table_path(folder: Path, split: str) -> Path:
    return folder / f"{split}.csv"


def _check_classes(source: RawDataset, name: str, left: NDArray[np.int64]) -> None:
    """Refuse a class whose training images are all unreadable; warn of a class whose test images all are."""
    lost = sorted({*source.splits[name].labels.tolist()} - {*left.tolist()})
    if not lost:
        return
    first = "the open set" if lost[0] == OPEN else f"class {source.classes[lost[0]]}"
    text = f"{source.name}: of {first}, none of the {name} images can be read"
    if name == "train":
        raise DataError(f"{text}; mend them, or leave {first} out")
    warnings.warn(f"{text}; {len(lost)} classes in all cannot be tested", stacklevel=4)


def _warn_of_repeats(source: RawDataset, written: Mapping[str, _Written]) -> None:
    train, test = (written[name] for name in ("train", "test"))
    of_train, of_test = (source.splits[name] for name in ("train", "test"))

    def name(split: Split, of: _Written, place: int) -> str:
        label = split.labels[of.kept[place]]
        called = "none of the classes" if label == OPEN else source.classes[label]
        return f"{split.files[of.kept[place]]} ({called})"

    if both := in_both(train.hashes, test.hashes):
        one, other = name(of_test, test, both[0][0]), name(of_train, train, both[0][1])
        warnings.warn(
            f"{len(both)} of the {len(test.kept)} test images are train images too, {one} = {other} first: accuracies "
            "will be too high",
            stacklevel=3,
        )
    if twice := under_two_labels(train.hashes, of_train.labels[train.kept]):
        same = next(i for i in twice[1:] if train.hashes[i] == train.hashes[twice[0]])
        warnings.warn(
            f"{len(twice)} train images are copies of each other under different labels, "
            f"{name(of_train, train, twice[0])} = {name(of_train, train, same)} first",
            stacklevel=3,
        )


def _warn_of_near_repeats(source: RawDataset, written: Mapping[str, _Written], place: Path) -> None:
    """Warn of pictures that were saved twice in different ways, in train and test or under two labels of train.

    Pictures of a side below LEAST are not compared: with so few pixels, two different pictures of a class may look like
    a picture that was saved twice.
    """
    if source.side < LEAST:
        return
    train, test = (written[name] for name in ("train", "test"))
    labels = source.splits["train"].labels[train.kept]
    count = len(train.kept)
    looks = np.concatenate([np.asarray(split.looks, np.uint64) for split in (train, test)])
    exact = np.concatenate([np.asarray(split.hashes, np.uint64) for split in (train, test)])
    pairs = near_pairs(looks, np.append(labels, np.full(len(test.kept), labels.max() + 1)))
    pairs = pairs[exact[pairs[:, 0]] != exact[pairs[:, 1]]]  # _warn_of_repeats tells of exact repeats
    chunks = [pairs[start : start + 1024] for start in range(0, len(pairs), 1024)]
    found = np.concatenate([pairs[:0], *(some[_alike(place, some, count)] for some in chunks)])
    files = [*(source.splits[name].files[i] for name in ("train", "test") for i in written[name].kept)]
    tested = found[:, 1] >= count
    for which, text in ((tested, "a train and a test image"), (~tested, "two train images under different labels")):
        if which.any():
            one, other = found[which][0].tolist()
            warnings.warn(
                f"{which.sum()} pairs of {text} are the same picture but for how it was saved, {files[one]} and "
                f"{files[other]} first",
                stacklevel=3,
            )


def _alike(place: Path, pairs: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Which of n pairs of images (n x 2 places) show the same picture: n bool.

    Places below `count` are those of train images; the test images follow.  The first of a pair is a train image.
    """
    train, test = (_beton_path(place, name) for name in ("train", "test"))
    one, second = read_images(train, pairs[:, 0]), pairs[:, 1]
    other, tested = np.empty_like(one), second >= count
    other[tested], other[~tested] = read_images(test, second[tested] - count), read_images(train, second[~tested])
    return alike(one, other)


def _decoded(split: Split) -> Iterator[NDArray[np.uint8] | UnreadableImage]:
    """Decode all images of a split in order, in a few threads that run slightly ahead of the consumer."""

    def attempt(i: int) -> NDArray[np.uint8] | UnreadableImage:
        try:
            return split.read(i)
        except UnreadableImage as error:
            return error

    return ahead(attempt, len(split.labels), os.cpu_count() or 1)


def _write_beton(path: Path, images: Iterable[NDArray[np.uint8]], most: int, side: int) -> None:
    """Write at most `most` images into a .beton file, byte for byte as FFCV's DatasetWriter with one worker writes it.

    DatasetWriter itself needs an installed FFCV and the number of images beforehand, forks workers, and waits for ever
    when a worker fails.  Images are packed into pages; no image crosses the border of a page.
    """
    size = side * side * 3
    page = MIN_PAGE if side <= 64 else 4 * MIN_PAGE  # small pages for small images: a file has two pages at least
    header = np.zeros((), HEADER)
    header["version"], header["num_fields"], header["page_size"] = 2, 2, page
    fields = np.zeros(2, FIELD)
    fields["type_id"], fields["name"] = FIELD_TYPES, [b"image", b"index"]
    samples = np.zeros(most, SAMPLE)
    start = -(-(header.nbytes + fields.nbytes + samples.nbytes) // page) * page
    count = 0
    with open(path, "wb") as file:
        for image in images:
            if image.shape != (side, side, 3):
                raise ValueError(f"image {count} is {image.shape}, not {(side, side, 3)}")
            number, place = divmod(count, page // size)
            pointer = start + number * page + place * size
            samples[count] = (RAW, side, side, pointer), count
            file.seek(pointer)  # skipped bytes read as zeros
            file.write(image.tobytes())
            count += 1
        if not count:
            return  # the caller refuses such a split
        allocations = np.zeros(count, ALLOCATION)
        allocations["sample"], allocations["pointer"] = np.arange(count), samples["image"]["data_ptr"][:count]
        allocations["size"] = size
        header["num_samples"] = count  # the table keeps room for `most`; readers take the first `count`
        header["table_ptr"] = start + -(-count // (page // size)) * page
        file.seek(int(header["table_ptr"]))
        file.write(allocations.tobytes())
        file.seek(0)
        file.write(header.tobytes() + fields.tobytes() + samples.tobytes())


def _stamp(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _hash(split: dict[str, Any]) -> str:
    return hashlib.sha256(f"{split['beton']['sha256']} {split['labels']['sha256']}".encode()).hexdigest()


def _read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise DataError(f"{path}: does not begin with {','.join(COLUMNS)}; {REMEDY}")
        return list(reader)


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        raise DataError(f"{path}: {size} bytes, but the manifest says {expected}; copy it again, or {REMEDY}")


def _check_beton(path: Path, images: int, side: int) -> None:
    header = np.fromfile(path, HEADER, 1)
    fields = np.fromfile(path, FIELD, 2, offset=HEADER.itemsize)
    if len(header) != 1 or header["version"] != 2 or fields["name"].tolist() != [b"image", b"index"]:
        raise DataError(f"{path}: not a beton that prepare wrote; {REMEDY}")
    count = int(header["num_samples"][0])
    if count != images:
        raise DataError(f"{path}: holds {count} images, but the manifest says {images}; {REMEDY}")
    samples = np.fromfile(path, SAMPLE, count, offset=HEADER.itemsize + fields.nbytes)
    for what in ("width", "height"):
        stored = samples["image"][what]
        if (stored != side).any():
            raise DataError(f"{path}: images of {what} {stored.max()}, but the manifest says {side}; {REMEDY}")
    if (samples["image"]["mode"] != RAW).any() or not np.array_equal(samples["index"], np.arange(images)):
        raise DataError(f"{path}: its table of images is damaged; {REMEDY}")


def _check_labels(dataset: Dataset, split: str, expected: str) -> None:
    path, images, last = dataset.folder / f"{split}.csv", dataset.sizes[split], len(dataset.classes) - 1
    opened = dataset.open_images if split == "train" else 0
    try:
        labels = dataset.labels(split)
    except (TypeError, ValueError):
        raise DataError(f"{path}: a label is not a number; {REMEDY}") from None
    if len(labels) != images:
        raise DataError(f"{path}: {len(labels)} rows, but the manifest says {images}; {REMEDY}")
    if not (OPEN if opened else 0) <= labels.min() <= labels.max() <= last:
        raise DataError(f"{path}: labels {labels.min()}..{labels.max()}, but the classes are 0..{last}; {REMEDY}")
    if (labels == OPEN).sum() != opened:
        raise DataError(f"{path}: {(labels == OPEN).sum()} labels {OPEN}, but the manifest says {opened}; {REMEDY}")
    if sha256(path) != expected:
        raise DataError(f"{path}: changed since it was written; {REMEDY} (your own labels go into noise.file)")
