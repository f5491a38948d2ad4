import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dist_rmd.data.datasets.digits import digits
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.errors import ConfigError


def test_the_split_is_stratified_disjoint_whole_and_fixed():
    source = digits(None, None)
    assert (source.name, source.side, source.classes) == ("digits", 8, tuple("0123456789"))
    train, test = source.splits["train"], source.splits["test"]
    assert (len(train.files), len(test.files)) == (1437, 360)
    members = [int(file.split("/")[1]) for file in train.files + test.files]
    assert sorted(members) == list(range(1797))
    share = np.bincount(test.labels) / np.bincount(np.concatenate([train.labels, test.labels]))
    assert np.abs(share - 0.2).max() < 0.005
    assert hashlib.sha256(" ".join(test.files).encode()).hexdigest()[:16] == "2c0b5fa74e1cd0fa"


def test_images_and_labels_are_scikit_learns():
    bunch = load_digits()
    split = digits(None, None).splits["test"]
    for i in range(0, len(split.files), 40):
        member = int(split.files[i].split("/")[1])
        image = split.read(i)
        assert split.labels[i] == bunch.target[member]
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.repeat(np.rint(bunch.images[member] * 255 / 16)[..., None], 3, -1))


def test_another_side_and_a_useless_folder(tmp_path):
    assert digits(None, 16).splits["train"].read(0).shape == (16, 16, 3)
    with pytest.raises(ConfigError, match="leave out --from"):
        digits(tmp_path, None)


def test_some_digits_are_the_open_set_of_the_others():
    whole, source = digits(None, None), digits(None, None, open_classes="0,8, 9")
    assert source.classes == ("1", "2", "3", "4", "5", "6", "7")
    train, test = source.splits["train"], source.splits["test"]
    names = np.array([*source.classes, "open"])
    assert set(names[train.labels[train.labels != OPEN]]) == set(source.classes) == set(names[test.labels])
    assert len(train.files) == 1437
    is_open = train.labels == OPEN
    assert np.flatnonzero(is_open).tolist() == list(range(1437 - is_open.sum(), 1437))
    assert [file.partition("/")[0] for file in train.files] == np.where(is_open, "open", "train").tolist()
    bunch = load_digits()
    for split in (train, test):
        for i in (0, len(split.files) - 1):
            member = int(split.files[i].split("/")[1])
            meant = "open" if bunch.target[member] in (0, 8, 9) else str(bunch.target[member])
            assert names[split.labels[i]] == meant
            np.testing.assert_array_equal(split.read(i)[..., 0], np.rint(bunch.images[member] * 255 / 16))
    kept = set(source.splits["test"].files)
    assert kept <= set(whole.splits["test"].files)


@pytest.mark.parametrize("text", ["7,x", "10", "7,", "-1", "0,1,2,3,4,5,6,7,8"])
def test_an_open_set_is_of_digits_and_leaves_two_classes(text):
    with pytest.raises(ConfigError, match=f"--open-classes {text}: expected up to eight digits, such as 7,8,9"):
        digits(None, None, open_classes=text)
