import numpy as np
import pytest

from dist_rmd.data.labels.table import read_label_table, spellings

CLASSES = ("cat", "dog", "=1")
FILES = ("a.png", "=b.png", "'=b.png", "c.png")


def read(tmp_path, text, files=FILES, classes=CLASSES, column="label"):
    (tmp_path / "t.csv").write_text(text)
    positions, labels = read_label_table(tmp_path / "t.csv", column, files, classes, "the box", " (ask)")
    return dict(zip(positions.tolist(), labels.tolist(), strict=True))


def test_names_and_numbers_in_any_order(tmp_path):
    assert read(tmp_path, "label;file\n1;c.png\ncat;a.png\n") == {0: 0, 3: 1}
    positions, _ = read_label_table(tmp_path / "t.csv", "label", FILES, CLASSES, "")
    np.testing.assert_array_equal(positions, [0, 3])


def test_images_that_were_held_out_may_be_listed(tmp_path):
    (tmp_path / "t.csv").write_text("file,label\n'=d.png,cat\nc.png,dog\n")
    positions, labels = read_label_table(tmp_path / "t.csv", "label", FILES, CLASSES, "", held_out=["=d.png"])
    assert (positions.tolist(), labels.tolist()) == ([3], [1])


def test_names_are_read_as_they_are_and_as_spreadsheets_must_see_them(tmp_path):
    files = FILES[:2]
    assert read(tmp_path, "file,label\n=b.png,=1\n", files) == {1: 2}
    assert read(tmp_path, "file,label\n'=b.png,'=1\n", files) == {1: 2}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "file,label\n'=b.png,cat\n",
            "line 2, column file: \"'=b.png\" may be that or '=b.png' in the box; rename one",
        ),
        ("file,label\nd.png,cat\n", "line 2, column file: no image 'd.png' in the box"),
        ("file,label\na.png,cow\n", r"line 2, column label: no class has the name or number 'cow' \(0..2\)"),
        ("file,label\na.png,\n", "line 2, column label: no class has the name or number ''"),
        ("file,label\na.png,cat\na.png,cat\n", "line 3, column file: 'a.png' stands on line 2 already"),
        ("file,class\na.png,cat\n", r"no column 'label' \(ask\), it has file, class"),
        ("name,label\na.png,cat\n", "no column 'file', to name the images as the box does; it has name, label"),
        ("file,label\n", "lists no image"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        read(tmp_path, text)


def test_a_class_that_a_text_may_mean_in_two_ways_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the name of one class and the number of another"):
        read(tmp_path, "file,label\na.png,1\n", classes=("1", "2"))


def test_a_name_is_known_by_both_spellings_unless_they_may_mean_two():
    assert spellings(["a", "=b", "-c"]) == {"a": 0, "=b": 1, "'=b": 1, "-c": 2, "'-c": 2}
    assert spellings(["=b", "'=b"]) == {"=b": 0, "'=b": None, "''=b": 1}


def test_lists_of_other_forms(tmp_path):
    files = ("images/cat/1.jpg", "images/dog/2.jpg", "c.png")
    assert read(tmp_path, "c.png 1\nimages/cat/1.jpg 0\n", files) == {0: 0, 2: 1}
    assert read(tmp_path, "class_name/key\ncat/1.jpg\ndog/2.jpg\n", files) == {0: 0, 1: 1}
    issues = "is_label_issue,given_label,predicted_label\nFalse,0,1\nTrue,0,1\nTrue,1,2\n"
    assert read(tmp_path, issues, files) == {0: 0, 1: 1, 2: 2}
    with pytest.raises(ValueError, match="has 3 rows, which name no images, but the box has 4"):
        read(tmp_path, issues)
