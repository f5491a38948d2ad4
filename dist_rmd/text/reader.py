"""Reads text files in any encoding and with any line ends: configurations, lists and tables."""

import codecs
import csv
import io
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from dist_rmd.errors import DataError, UserError

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""byte order mark -> the encoding that it announces"""
SEPARATORS = (",", ";", "\t")


def read_text(path: Path, refusal: type[UserError] = DataError) -> str:
    """The text of a file in UTF-8, or in what its byte order mark says, with lines that end in a newline alone.

    Bytes that are no UTF-8 become surrogates, as in file names: a list may name a file that has such a name.

    Raises `refusal`, in one line that names the file, when it cannot be read or is no text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise refusal(f"{path}: {error.strerror}") from None
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    try:
        text = content.removeprefix(mark).decode(MARKS.get(mark, "utf-8"), "strict" if mark else "surrogateescape")
    except UnicodeDecodeError as error:
        raise refusal(f"{path}: not the {error.encoding} that its first bytes announce; save it as UTF-8") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise refusal(f"{path}: line {line} holds NUL, so it is no text, or UTF-16 without a mark; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


class Table(NamedTuple):
    """A text with a header."""

    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]]
    """line in the file, column -> text"""


def read_table(path: Path, needed: Collection[str] = (), refusal: type[UserError] = DataError) -> Table:
    """A table with a header, separated by commas, or where the header has none by semicolons or tabs.

    Lines whose fields are all empty do not count.  needed: columns that there must be.

    Raises `refusal`, in one line that names the file and the line in it, also for rows that are longer or shorter than
    the header, a column named twice, and a quote that is never closed.
    """
    text = read_text(path, refusal)
    header = text.partition("\n")[0]
    separator = next((mark for mark in SEPARATORS if mark in header), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = tuple(name.strip() for name in next(reader, []))
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise refusal(f"{path}: two columns are called {twice[0]!r}")
        for name in needed:
            if name not in columns:
                raise refusal(f"{path}: no column {name!r}; the first line names {', '.join(columns) or 'none'}")
        rows = []
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(columns):
                raise refusal(
                    f"{path}: line {reader.line_num} has {len(fields)} fields, but the header has {len(columns)} "
                    f"({', '.join(columns)})"
                )
            rows.append((reader.line_num, dict(zip(columns, fields, strict=True))))
    except csv.Error as error:
        raise refusal(f"{path}: line {reader.line_num}: {error}") from None
    return Table(columns, rows)
