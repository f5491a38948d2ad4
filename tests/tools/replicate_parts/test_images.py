from pathlib import Path

import numpy as np
import pytest
from support import small

from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.prepared import beton
from dist_rmd.errors import DataError
from tools.replicate_parts.images import describe, first, kind_of, main, open_source, with_unknown


def test_the_layout_is_found(tmp_path):
    assert kind_of(None) == "digits"
    for kind, file in {
        "betons": "manifest.json", "sheets": "train/index.csv", "cifar10": "cifar-10-python.tar.gz",
        "folder": "train/cat/1.png",
    }.items():  # fmt: skip
        (tmp_path / kind / file).parent.mkdir(parents=True)
        (tmp_path / kind / file).touch()
        assert kind_of(tmp_path / kind) == kind
    with pytest.raises(DataError, match="nowhere: no such folder"):
        kind_of(Path("nowhere"))


def test_betons_are_the_images_they_were_made_of(tmp_path):
    folder = small.prepare(tmp_path, open_images=20)
    ours, theirs = open_source("betons", folder), open_source("digits", None)
    assert describe(ours) == describe(theirs) == "digits, 1,437 for training and 360 for tests, 10 classes"
    for name, split in theirs.splits.items():
        np.testing.assert_array_equal(ours.splits[name].labels, split.labels)
        assert all(np.array_equal(ours.splits[name].read(i), split.read(i)) for i in (0, 359))
    np.testing.assert_array_equal(ours.splits["train"].read(1400), theirs.splits["train"].read(1400))


def test_the_first_of_every_class():
    split = open_source("digits", None).splits["train"]
    part = first(split, 7)
    assert np.bincount(part.labels).tolist() == [7] * 10
    eights = [i for i, label in enumerate(split.labels) if label == 8][:7]
    assert [file for file, label in zip(part.files, part.labels, strict=True) if label == 8] == [
        split.files[i] for i in eights
    ]
    assert first(split, None) is split


def test_the_last_classes_are_of_no_class():
    whole = open_source("digits", None)
    source = with_unknown(whole, 7)
    train, test = source.splits["train"], source.splits["test"]
    assert source.classes == tuple("0123456")
    assert (np.diff((train.labels == OPEN).astype(int)) >= 0).all()  # they come last
    assert (train.labels == OPEN).sum() == (whole.splits["train"].labels >= 7).sum()
    assert len(train.labels) == len(whole.splits["train"].labels)
    assert set(test.labels) == set(range(7))
    last = whole.splits["train"].files.index(train.files[-1].removeprefix("open/"))
    np.testing.assert_array_equal(train.read(len(train.labels) - 1), whole.splits["train"].read(last))


def test_the_command_writes_a_part_as_betons(tmp_path, capsys):
    words = ["--side", "16", "--train", "10", "--test", "5"]
    assert main(["digits", "-", str(tmp_path / "out"), *words, "--known", "6"]) == 0
    dataset = beton.open_dataset(tmp_path / "out")
    assert (dataset.side, dataset.sizes, dataset.open_images) == (16, {"train": 100, "test": 30}, 40)
    assert main(["folder", str(tmp_path), str(tmp_path / "other")]) == 65
    assert capsys.readouterr().err.startswith("error: ")
