"""CIFAR-10 as its authors publish it (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).

`read` serves cifar100.py, too: the archives differ only in names and checksums, which torchvision's classes know.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity, extract_archive

from dist_rmd.cli.paths import home
from dist_rmd.data.datasets.base import RawDataset, Split, needs_folder
from dist_rmd.data.images.pictures import fit
from dist_rmd.errors import ConfigError, DataError

__all__ = ["cifar10"]


def cifar10(origin: Path | None, side: int | None) -> RawDataset:
    """50,000 training and 10,000 test images of 10 classes.  `side` is 32 by default, the published pixels.

    origin: a folder with cifar-10-python.tar.gz or cifar-10-batches-py, or the folder cifar-10-batches-py itself.
    Without an origin the archive is downloaded once, to ~/.cache/dist_rmd (or below XDG_CACHE_HOME).

    Raises DataError when the files are not there, are not the published ones (MD5), or cannot be downloaded.
    """
    return read("cifar10", CIFAR10, origin, side)


def read(name: str, kind: type[CIFAR10], origin: Path | None, side: int | None) -> RawDataset:
    """The dataset that torchvision's class `kind` reads; `origin` and `side` as for `cifar10`."""
    train, test = _download(kind) if origin is None else _open(kind, needs_folder(name, origin))
    side = side or train.data.shape[1]
    splits = {"train": _split("train", train, side), "test": _split("test", test, side)}
    return RawDataset(name, side, tuple(train.classes), splits)


def _split(name: str, images: CIFAR10, side: int) -> Split:
    files = [f"{name}/{i:05d}" for i in range(len(images.data))]
    return Split(np.array(images.targets, np.int64), files, lambda i: fit(Image.fromarray(images.data[i]), side))


def _both(kind: type[CIFAR10], root: Path, download: bool = False) -> tuple[CIFAR10, CIFAR10]:
    return kind(root, train=True, download=download), kind(root, train=False)


def _download(kind: type[CIFAR10]) -> tuple[CIFAR10, CIFAR10]:
    folder = home()
    if not folder and not os.environ.get("XDG_CACHE_HOME"):
        raise ConfigError("this user has no home folder to download to: fetch the archive, and give --from its folder")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or f"{folder}/.cache") / "dist_rmd"
    try:
        return _both(kind, cache, download=True)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors
        raise DataError(
            f"{kind.url} cannot be downloaded to {cache} ({error}): fetch it yourself, then --from its folder"
        ) from None


def _open(kind: type[CIFAR10], origin: Path) -> tuple[CIFAR10, CIFAR10]:
    root = origin.resolve().parent if origin.resolve().name == kind.base_folder else origin
    archive = root / kind.filename
    try:
        if (root / kind.base_folder).is_dir():
            return _both(kind, root)
        if not archive.is_file():
            raise DataError(f"{root}: neither {kind.filename} nor {kind.base_folder} is here; get it from {kind.url}")
        if not check_integrity(archive, kind.tgz_md5):
            raise DataError(f"{archive}: not the published archive, or damaged; get it from {kind.url}")
        with tempfile.TemporaryDirectory() as place:  # the user's folder may be read-only
            extract_archive(archive, place)
            return _both(kind, Path(place))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{root / kind.base_folder}: not as published ({error}); get it from {kind.url}") from None
