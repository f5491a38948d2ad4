"""Reads a table of image files and labels from any source: classes by name or number, rows in any order."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rmd.data.labels.lists import read_list
from dist_rmd.data.labels.look_alikes import look_alike
from dist_rmd.text.escapes import spreadsheet

Integers = NDArray[np.int64]


def read_label_table(
    table: Path,
    column: str,
    files: Sequence[str],
    classes: Sequence[str],
    place: object,
    choice: str = "",
    held_out: Iterable[str] = (),
) -> tuple[Integers, Integers]:
    """Read which images a table lists, and the class of each: (ascending positions in `files`, class numbers).

    table: a table with the columns "file" and `column`, or a list in another form of lists.py.  A list without names
        of images has a row for each of `files`, in this order.
    files: the names of all images.  place: where these names are found, for error messages.
    classes: names of the classes; a label is one of these names or its number, from 0 on.
    choice: how another column is chosen, for the error message where `column` is missing.
    held_out: names of further images, which the table may list and whose rows are passed over.

    A name that a spreadsheet could take for a formula may have an apostrophe before it (escapes.spreadsheet).  Raises
    ValueError, which names line and column, for an image or class that does not exist, an image that is listed twice,
    and a table without images; DataError for a file that is no table.
    """
    images, aside, meanings = spellings(files), spellings(held_out), _meanings(classes)
    labels: dict[int, int] = {}
    lines: dict[int, int] = {}
    entries = read_list(table, column, f", to name the images as {place} does", choice)
    unnamed = sum(entry.file is None for entry in entries)
    if unnamed and unnamed != len(files):
        raise ValueError(f"has {unnamed} rows, which name no images, but {place} has {len(files)}")
    for row, (line, file, label) in enumerate(entries):
        name = files[row] if file is None else _known(file, images)
        if name not in images and _known(name, aside) in aside:
            continue
        if name not in images:
            raise ValueError(f"line {line}, column file: no image {name!r} in {place}{_right_name(name, images)}")
        image, number = images[name], meanings.get(label, -1)
        if image is None:
            raise ValueError(f"line {line}, column file: {name!r} may be that or {name[1:]!r} in {place}; rename one")
        if image in lines:
            raise ValueError(f"line {line}, column file: {name!r} stands on line {lines[image]} already")
        if number == -1:
            other = look_alike(label, classes)
            hint = f"; did you mean {other!r}?" if other else ""
            raise ValueError(
                f"line {line}, column {column}: no class has the name or number {label!r} (0..{len(classes) - 1}){hint}"
            )
        if number is None:
            raise ValueError(
                f"line {line}, column {column}: {label!r} is the name of one class and the number of another, so "
                "it may mean either; give the numbers as an .npy"
            )
        labels[image], lines[image] = number, line
    if not labels:
        raise ValueError("lists no image")
    positions = np.array(sorted(labels))
    return positions, np.array([labels[image] for image in positions.tolist()])


def _known(name: str, images: Mapping[str, int | None]) -> str:
    """The name under which `images` has an image that a list names; Food-101N's lists leave out the folder images/."""
    return name if name in images or f"images/{name}" not in images else f"images/{name}"


def _meanings(classes: Sequence[str]) -> dict[str, int | None]:
    """Text -> class that has this name or number; None where a text is one class's name and another's number."""
    meanings: dict[str, int | None] = {str(number): number for number in range(len(classes))}
    for text, number in spellings(classes).items():
        meanings[text] = number if meanings.get(text, number) == number else None
    return meanings


def spellings(names: Iterable[str]) -> dict[str, int | None]:
    """Text -> place of the name that is spelled so, plainly or for a spreadsheet; None where two names are."""
    found: dict[str, int | None] = {}
    for place, name in enumerate(names):
        for text in {name, spreadsheet(name)}:
            found[text] = place if found.get(text, place) == place else None
    return found


def _right_name(name: str, images: Mapping[str, int | None]) -> str:
    """A hint for an error message: the known name closest to the unknown `name`, or an example of a known name."""
    parts = name.replace("\\", "/").removeprefix("./").split("/")
    ends = ["/".join(parts[start:]) for start in range(len(parts))]  # the longest first
    near = next((known for end in ends for known in images if f"/{known}".endswith(f"/{end}")), None)
    return f"; did you mean {near!r}?" if near else f"; they are called like {next(iter(images), '')!r}"
