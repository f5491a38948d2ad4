import pytest

from dist_rmd.data.labels.lists import read_list
from dist_rmd.errors import DataError


def read(tmp_path, content, **options):
    path = tmp_path / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [tuple(entry) for entry in read_list(path, **options)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["file,label", '"a, é.png",cat'], [(2, "a, é.png", "cat")]),
        (["label\tfile", "cat\ta.png"], [(2, "a.png", "cat")]),
        (
            ["images/0/00/a, b.jpg 5", "", "images/1 c.jpg 6"],
            [(1, "images/0/00/a, b.jpg", "5"), (3, "images/1 c.jpg", "6")],
        ),
        (["class_name/key", "apple_pie/1.jpg"], [(2, "apple_pie/1.jpg", "apple_pie")]),
        (["class_name/key\tverification_label", "apple_pie/1.jpg\t0"], [(2, "apple_pie/1.jpg", "apple_pie")]),
    ],
)
def test_every_form_in_every_encoding(tmp_path, lines, found, encoding, end):
    assert read(tmp_path, end.join([*lines, ""]).encode(encoding)) == found


def test_cleanlabs_issues_have_the_predicted_label_where_the_given_one_is_an_issue(tmp_path):
    """As pandas writes them, with the number of the row in a column without a name."""
    text = ",is_label_issue,label_quality,given_label,predicted_label\n0,False,0.9,2,1\n1,True,0.1,0,1\n"
    assert read(tmp_path, text) == [(2, None, "2"), (3, None, "1")]
    with pytest.raises(DataError, match="line 2, column is_label_issue: 'maybe' is neither True nor False"):
        read(tmp_path, "is_label_issue,given_label,predicted_label\nmaybe,0,1\n")


def test_a_column_of_ones_own_choice(tmp_path):
    assert read(tmp_path, "file,worst\na.png,dog\n", column="worst") == [(2, "a.png", "dog")]
    with pytest.raises(ValueError, match=r"no column 'best' \(ask\), it has file, worst"):
        read(tmp_path, "file,worst\na.png,dog\n", column="best", choice=" (ask)")


def test_lines_without_a_label_are_named(tmp_path):
    with pytest.raises(DataError, match=r"line 2 is no file and label with a blank between.*name the columns file and"):
        read(tmp_path, "a.png 0\nb.png\n")
    with pytest.raises(ValueError, match="no column 'file'; it has a"):
        read(tmp_path, "a\nb\n")
