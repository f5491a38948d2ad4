"""Text files as people save them: one reader for configurations, lists and tables, wherever they come from."""

import codecs
from pathlib import Path

from dist_rmd.errors import DataError, UserError

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
"""byte order mark -> the encoding that it announces"""


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
