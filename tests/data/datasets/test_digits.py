import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dist_rmd.data.datasets.digits import digits
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
