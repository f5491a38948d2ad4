import shutil

import numpy as np
import pytest
from PIL import Image

from dist_rmd.data.datasets.base import UnreadableImage
from dist_rmd.data.datasets.folder import folder
from dist_rmd.errors import ConfigError, DataError

COLOURS = {"cat": (200, 10, 10), "ant": (10, 200, 10), "Bee 2": (10, 10, 200)}


@pytest.fixture
def tree(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name, colour in COLOURS.items():
            for i in range(count):
                path = tmp_path / split / name / ("more" if i == 1 else ".") / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40 + i, 50), colour).save(path)
    return tmp_path


def test_classes_are_sorted_and_belong_to_their_images(tree):
    source = folder(tree, None)
    assert (source.name, source.side, source.classes) == ("folder", 32, ("Bee 2", "ant", "cat"))
    for name, split in source.splits.items():
        assert len(set(split.files)) == len(split.files) == {"train": 9, "test": 6}[name]
        for i, file in enumerate(split.files):
            label = source.classes[split.labels[i]]
            assert file.startswith(f"{name}/{label}/")
            assert (split.read(i) == np.full((32, 32, 3), COLOURS[label])).all()
    assert "train/cat/more/1.png" in source.splits["train"].files
    assert folder(tree, 20).splits["test"].read(0).shape == (20, 20, 3)


def test_a_class_without_test_images_is_allowed_with_a_warning(tree):
    shutil.rmtree(tree / "test" / "ant")
    with pytest.warns(UserWarning, match="1 classes without test images, ant first"):
        source = folder(tree, None)
    assert source.classes == ("Bee 2", "ant", "cat")
    assert set(source.splits["test"].labels) == {0, 2}


def test_an_unreadable_image_is_found_when_it_is_read(tree):
    (tree / "train" / "ant" / "0.png").write_bytes(b"")
    split = folder(tree, None).splits["train"]
    with pytest.raises(UnreadableImage, match=r"train/ant/0\.png"):
        split.read(split.files.index("train/ant/0.png"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split(tree, split):
    shutil.rmtree(tree / split)
    with pytest.raises(DataError, match=f"{split}: no such folder; the images belong into train/<class>"):
        folder(tree, None)


def test_classes_that_are_unknown_empty_or_too_few(tree):
    (tree / "test" / "dog").mkdir()
    with pytest.raises(DataError, match="test/dog: a class that train/ does not have"):
        folder(tree, None)
    (tree / "train" / "dog").mkdir()
    with pytest.raises(DataError, match="train/dog: no images"):
        folder(tree, None)
    Image.new("RGB", (9, 9)).save(tree / "train" / "dog" / "0.png")
    with pytest.raises(DataError, match="test/dog: no images"):
        folder(tree, None)
    shutil.rmtree(tree / "test")
    (tree / "test").mkdir()
    with pytest.raises(DataError, match="test: no class folders"):
        folder(tree, None)
    for name in ("cat", "ant", "dog"):
        shutil.rmtree(tree / "train" / name)
    with pytest.raises(DataError, match="train: 1 class folders, but at least 2"):
        folder(tree, None)


def test_the_folder_must_be_named_and_exist(tmp_path):
    with pytest.raises(ConfigError, match="--from DIR"):
        folder(None, None)
    with pytest.raises(DataError, match="gone: no such folder"):
        folder(tmp_path / "gone", None)
