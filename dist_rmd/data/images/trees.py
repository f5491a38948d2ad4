"""Finds the images in a folder tree.  Links are followed, but no folder is read twice, nor a folder above the tree."""

import os
import warnings
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from dist_rmd.errors import DataError

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip

Identity = tuple[int, int]
"""device and inode, which identify a folder under any path"""


def image_files(folder: Path, without: Collection[Path] = ()) -> Iterator[Path]:
    """All images in `folder` and below, in the order of their names.  Hidden files and folders do not count.

    without: folders that are left out under any path, also where a link leads to them.

    Warns of files that are no images, and of links that are not followed: links to a folder above, which would lead
    back here, and links to a folder that was read before.  Raises DataError when a folder cannot be listed.
    """
    above, left_out = _above(folder), {_identity(path) for path in without}
    places: dict[Identity, Path] = {}
    ignored, upward, again = [], [], []
    todo = [folder]
    while todo:
        place = todo.pop()
        found = _identity(place)
        if found in above:
            upward.append(place)
        elif found in places:
            again.append((place, places[found]))
        elif found not in left_out:
            if found[1]:  # 0 where a network file system has no inodes
                places[found] = place
            folders, files = _listed(place)
            todo += reversed(folders)
            for path in files:
                if path.name.lower().endswith(SUFFIXES):
                    yield path
                else:
                    ignored.append(path)
    if upward:
        _warn(f"{upward[0]}: a link to a folder above it, not followed", len(upward), "such links")
    if again:
        _warn(f"{again[0][0]}: the same folder as {again[0][1]}, read once", len(again), "such folders")
    if ignored:
        warnings.warn(f"{folder}: left out {len(ignored)} files that are no images, {ignored[0]} first", stacklevel=2)


def class_folders(place: Path) -> list[str]:
    """The names of the folders in `place`, sorted; hidden ones and links to a folder above do not count.

    Warns of such links, of links that lead nowhere, and of one folder under two names, whose images have two classes.
    """
    above = _above(place) | {_identity(place)}
    names: dict[Identity, str] = {}
    found = []
    folders, files = _listed(place)
    for path in files:
        if path.is_symlink() and not path.exists() and not path.name.lower().endswith(SUFFIXES):
            _warn(f"{path}: a link that leads nowhere, so no class", 1, "")
    for path in folders:
        identity = _identity(path)
        if identity in above:
            _warn(f"{path}: a link to a folder above it, which is no class", 1, "")
            continue
        if identity[1] and identity in names:
            _warn(f"{path}: the same folder as {names[identity]}: its images are taken under both names", 1, "")
        names.setdefault(identity, path.name)
        found.append(path.name)
    return found


def folder_names(place: Path) -> list[str]:
    """The names of all folders in `place`, sorted; hidden ones do not count."""
    return [path.name for path in _listed(place)[0]]


def images_beside(place: Path) -> list[Path]:
    """The images that lie in `place` itself."""
    return [path for path in _listed(place)[1] if path.name.lower().endswith(SUFFIXES)]


def holds_images(folder: Path) -> bool:
    """Whether there is an image in `folder` or below."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool([*islice(image_files(folder), 1)])


def _listed(place: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, each in the order of their names, without hidden ones."""
    try:
        with os.scandir(place) as entries:
            shown = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
            are_folders = [entry.is_dir() for entry in shown]
    except OSError as error:
        raise DataError(f"{place}: cannot be listed ({error.strerror})") from None
    paths = [(Path(entry.path), is_folder) for entry, is_folder in zip(shown, are_folders, strict=True)]
    return [path for path, is_folder in paths if is_folder], [path for path, is_folder in paths if not is_folder]


def _identity(folder: Path) -> Identity:
    try:
        found = folder.stat()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from None
    return found.st_dev, found.st_ino


def _above(folder: Path) -> set[Identity]:
    """All folders above `folder`, along the given path and along the path with links resolved."""
    _identity(folder)  # raises an error that names a missing `folder` rather than one of its parents
    return {_identity(parent) for path in (folder.absolute(), folder.resolve()) for parent in path.parents}


def _warn(text: str, count: int, what: str) -> None:
    warnings.warn(text + (f"; {count} {what} in all" if count > 1 else ""), stacklevel=3)
