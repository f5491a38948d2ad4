"""Text files that other programs saved: read alike, or refused in one line."""

import codecs
import os

import pytest

from dist_rmd.errors import ConfigError, DataError
from dist_rmd.text.reader import read_table, read_text


@pytest.mark.parametrize(
    "content",
    [
        b"n01\nn02\n",
        b"\xef\xbb\xbfn01\r\nn02\r\n",
        b"n01\rn02\r",
        "n01\r\nn02\r\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "n01\nn02\n".encode("utf-16-be"),
        "n01\nn02\n".encode("utf-32"),
    ],
)
def test_marks_encodings_and_line_ends_make_no_difference(tmp_path, content):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert read_text(path) == "n01\nn02\n"


def test_bytes_that_are_no_utf_8_are_those_of_a_file_name(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"caf\xe9\n")
    assert os.fsencode(read_text(path)) == b"caf\xe9\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("n01\nn02\n".encode("utf-16-le"), r"names\.txt: line 1 holds NUL.*save it as UTF-8"),
        (b"n01\nn\x0002\n", "line 2 holds NUL"),
        (codecs.BOM_UTF16_LE + b"n0\x00", "not the utf-16-le that its first bytes announce"),
        (None, r"names\.txt: No such file"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_text(path)
    with pytest.raises(ConfigError, match=words):
        read_text(path, ConfigError)


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(DataError, match="Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_has_rows_by_column_and_their_lines(tmp_path, separator):
    path = tmp_path / "a.csv"
    lines = ["file, label", '"a, ""b"".png",1', "", "c.png,", ",", "d.png,2", ""]
    path.write_bytes("\r\n".join(lines).replace(",", separator).encode("utf-8-sig"))
    table = read_table(path, ["label"])
    assert table.columns == ("file", "label")
    assert table.rows == [
        (2, {"file": f'a{separator} "b".png', "label": "1"}),
        (4, {"file": "c.png", "label": ""}),
        (6, {"file": "d.png", "label": "2"}),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"a\.csv: no column 'file'; the first line names none"),
        ("a.png,1\nb.png,2\n", "no column 'file'; the first line names a.png, 1"),
        ("file,label\na.png\n", r"line 2 has 1 fields, but the header has 2 \(file, label\)"),
        ("file,label\na.png,1\na,b.png,2\n", "line 3 has 3 fields"),
        ("file,file\n", "two columns are called 'file'"),
        ('file,label\na.png,"1\nb.png,2\n', "line 3: unexpected end of data"),
        ("file,label\n" + "x" * 200_000 + ",1\n", "line 2: field larger than field limit"),
    ],
)
def test_a_table_that_is_none_is_refused_with_the_line(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / "a.csv", ["file"])
