r"""Reads lists of images and their labels, in the forms in which data sets and programs publish such lists.

    file,label                       a table with these columns, separated by commas, semicolons or tabs
    images/0/00/1.jpg 5              Clothing1M's key and value: a file and its label with a blank between
    class_name/key                   Food-101N's tables: apple_pie/1.jpg, where the folder is the class
    is_label_issue,given_label,predicted_label
                                     cleanlab's issues: a row for each image, in order, without the images' names
"""

import re
from pathlib import Path
from typing import NamedTuple

from dist_rmd.errors import DataError
from dist_rmd.text.reader import SEPARATORS, Table, read_table, read_text

LINE = re.compile(r"(?P<file>\S.*?)[ \t]+(?P<label>\S+)")
IMAGE = re.compile(r".*\.\w{2,5}", re.DOTALL)
KEY = "class_name/key"
ISSUE, GIVEN, PREDICTED = "is_label_issue", "given_label", "predicted_label"
TRUE = ("true", "1")


class Entry(NamedTuple):
    """An image of a list."""

    line: int
    file: str | None
    """name of the image; None where the list names no images, but has a row for each image"""
    label: str


def read_list(path: Path, column: str = "label", where: str = "", choice: str = "") -> list[Entry]:
    """Read the images of a list in the list's order, with names and labels as the list spells them.

    column: name of the column of labels, in a table with a column "file".
    where: where the images' names are found; choice: how another column is chosen.  Both end an error's message.

    From cleanlab's issues an image gets its predicted label where cleanlab takes the given label for wrong, else the
    given label.  Raises DataError, which names the file and the line, for a file in none of the forms, and ValueError
    where a column is missing.
    """
    text = read_text(path)
    first = next((line.strip() for line in text.split("\n") if line.strip()), "")
    found = LINE.fullmatch(first)
    if found and (IMAGE.fullmatch(found["file"]) or not any(mark in first for mark in SEPARATORS)):
        return _key_values(path, text)
    content = read_table(path)
    if KEY in content.columns:
        return [Entry(line, row[KEY].strip(), row[KEY].strip().partition("/")[0]) for line, row in content.rows]
    if "file" not in content.columns and {ISSUE, GIVEN, PREDICTED} <= {*content.columns}:
        return _issues(path, content)
    listing = ", ".join(content.columns) or "none"
    if "file" not in content.columns:
        raise ValueError(f"no column 'file'{where}; it has {listing}")
    if column not in content.columns:
        raise ValueError(f"no column {column!r}{choice}, it has {listing}")
    return [Entry(line, row["file"], row[column].strip()) for line, row in content.rows]


def _key_values(path: Path, text: str) -> list[Entry]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            parts = LINE.fullmatch(line.strip())
            if parts is None:
                raise DataError(
                    f"{path}: line {number} is no file and label with a blank between, and the first line does not "
                    f"name the columns file and label: {line[:80]!a}"
                )
            found.append(Entry(number, parts["file"], parts["label"]))
    return found


def _issues(path: Path, content: Table) -> list[Entry]:
    found = []
    for line, row in content.rows:
        wrong = row[ISSUE].strip().lower()
        if wrong not in (*TRUE, "false", "0"):
            raise DataError(f"{path}: line {line}, column {ISSUE}: {row[ISSUE]!a} is neither True nor False")
        found.append(Entry(line, None, row[PREDICTED if wrong in TRUE else GIVEN].strip()))
    return found
