from dataclasses import replace

import numpy as np
import pytest

from dist_rmd.data.datasets.digits import digits
from dist_rmd.data.prepared.relabelled import relabelled
from dist_rmd.errors import DataError


@pytest.fixture
def source():
    return digits(None, None)


def test_the_listed_images_have_the_listed_labels(source, tmp_path):
    train = source.splits["train"]
    labels = (train.labels[:100] + 1) % 10
    lines = [f"{train.files[i]},{labels[i]},0.5" for i in reversed(range(100)) if i != 7]
    (tmp_path / "mine.csv").write_text("\n".join(["file,label,score", *lines]))
    found = relabelled(source, tmp_path / "mine.csv")
    kept = [i for i in range(100) if i != 7]
    assert found.splits["train"].files == [train.files[i] for i in kept]
    np.testing.assert_array_equal(found.splits["train"].labels, labels[kept])
    np.testing.assert_array_equal(found.splits["train"].read(50), train.read(51))
    assert found.splits["test"] is source.splits["test"]
    assert source.verified
    assert not found.verified
    assert replace(found, splits=source.splits, verified=True) == source


def test_test_images_may_be_listed_if_they_were_held_out(source, tmp_path):
    train, test = source.splits["train"], source.splits["test"]
    lines = [f"{file},{i % 10}" for i, file in enumerate([*train.files, test.files[0]])]
    (tmp_path / "mine.csv").write_text("\n".join(["file,label", *lines]))
    with pytest.raises(DataError, match="no image"):
        relabelled(source, tmp_path / "mine.csv")
    found = relabelled(replace(source, held_out=True), tmp_path / "mine.csv")
    assert found.splits["train"].files == list(train.files)
    assert found.splits["test"] is test


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,label\nnobody,1\n", "line 2, column file: no image 'nobody' in the digits images"),
        ("file,class\n", "no column 'label', it has file, class"),
        ("file,label\n{0},1\n", "no image is left of class 0"),
    ],
)
def test_a_table_that_does_not_fit_is_named(source, tmp_path, text, reason):
    path = tmp_path / "mine.csv"
    path.write_text(text.format(*source.splits["train"].files))
    with pytest.raises(DataError, match=rf"^{path}: {reason}"):
        relabelled(source, path)
