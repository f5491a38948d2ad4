import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_rmd.data.datasets.folder import folder
from dist_rmd.data.images.pictures import UnreadableImage
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


def test_a_missing_train(tree):
    shutil.rmtree(tree / "train")
    with pytest.raises(DataError, match="train: no such folder; the images belong into train/<class>"):
        folder(tree, None)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_are_test_images_where_there_are_no_others(tree, name):
    (tree / "test").rename(tree / name)
    source = folder(tree, None)
    assert (source.verified, source.held_out) == (True, False)
    assert source.splits["test"].files[0] == f"{name}/Bee 2/0.png"
    shutil.copytree(tree / name, tree / "test")
    with pytest.warns(UserWarning, match=f"{name}: left out, with the images in it: neither train nor test"):
        assert folder(tree, None).splits["test"].files[0] == "test/Bee 2/0.png"


@pytest.mark.parametrize("flat", [False, True])
def test_without_test_images_a_tenth_of_every_class_is_held_out(tree, flat):
    """Always the same one, of images that nobody vouches for; <class>/* alone is as good as train/<class>/*."""
    shutil.rmtree(tree / "test")
    for name, colour in COLOURS.items():
        for i in range(3, 30):
            Image.new("RGB", (8, 8), colour).save(tree / "train" / name / f"{i}.png")
    root = tree / "train" if flat else tree
    source, again = folder(root, None), folder(root, None)
    train, test = source.splits["train"], source.splits["test"]
    assert (source.verified, source.held_out, source.classes) == (False, True, ("Bee 2", "ant", "cat"))
    assert np.bincount(test.labels).tolist() == [3, 3, 3]
    assert np.bincount(train.labels).tolist() == [27, 27, 27]
    assert not {*train.files} & {*test.files}
    assert all(file.startswith("" if flat else "train/") and (root / file).is_file() for file in test.files)
    assert again.splits["test"].files == test.files
    for split in (train, test):
        for i, file in enumerate(split.files):
            assert (split.read(i) == np.array(COLOURS[Path(file).parts[0 if flat else 1]])).all()


def test_a_class_of_one_image_has_none_to_hold_out(tree):
    shutil.rmtree(tree / "test")
    (tree / "train" / "dog").mkdir()
    Image.new("RGB", (8, 8)).save(tree / "train" / "dog" / "0.png")
    with pytest.raises(DataError, match="class dog has 1 image, none of which can be held out"):
        folder(tree, None)


def test_a_split_of_another_name_is_named_and_can_be_taken(tree):
    (tree / "test").rename(tree / "later")
    split = folder(tree, None, test="later").splits["test"]
    assert (len(split.files), split.files[0]) == (6, "later/Bee 2/0.png")
    (tree / "train").rename(tree / "training")
    with pytest.raises(DataError, match=r"train: no such folder; .* has training/: --train training takes one"):
        folder(tree, None, test="later")
    assert len(folder(tree, None, train="training", test="later").splits["train"].files) == 9


@pytest.mark.parametrize("name", ["..", ".", "/", "../other", "train/.."])
def test_a_split_is_a_folder_of_the_origin(tree, name):
    with pytest.raises(ConfigError, match=f"--test {name}: give the name of a folder in"):
        folder(tree, None, test=name)


def test_classes_that_are_unknown_empty_or_too_few(tree):
    (tree / "test" / "dog").mkdir()
    with pytest.raises(DataError, match="test/dog: a class that train/ does not have; rename it or take it out"):
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Cat", "whose 'cat' differs from 'Cat' in upper and lower case; rename one of them"),
        ("cat ", "whose 'cat' differs from 'cat ' in blanks"),
        ("c\u200bat", r"whose 'cat' differs from 'c\\u200bat' in blanks, underscores or invisible marks"),
    ],
)
def test_a_test_class_that_only_looks_like_one_of_train_is_explained(tree, name, words):
    (tree / "test" / "cat").rename(tree / "test" / name)
    with pytest.raises(DataError, match=f"a class that train/ does not have, {words}"):
        folder(tree, None)


def test_two_classes_that_look_alike_are_told(tree):
    for split in ("train", "test"):
        shutil.copytree(tree / split / "cat", tree / split / "Cat")
    with pytest.warns(UserWarning, match="'Cat' and 'cat' are two classes, which differ in upper and lower case"):
        assert len(folder(tree, None).classes) == 4


def test_images_where_nothing_reads_them_are_mentioned(tree):
    for place in ("x.png", "train/y.jpg", "train/z.jpg", "test/w.png", "extra/deep/v.png", "notes/readme.txt"):
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).touch()
    with pytest.warns(UserWarning, match="left out") as warned:
        assert len(folder(tree, None).splits["train"].files) == 9
    assert [str(warning.message).removeprefix(str(tree)) for warning in warned] == [
        ": left out 1 images in no class folder, x.png first",
        "/train: left out 2 images in no class folder, y.jpg first",
        "/test: left out 1 images in no class folder, w.png first",
        "/extra: left out, with the images in it: neither train nor test",
    ]


def test_images_that_lie_beside_each_other_are_told(tree):
    shutil.rmtree(tree / "train")
    (tree / "train").mkdir()
    for label in range(2):
        (tree / "train" / f"{label}_12.jpg").touch()
    with pytest.raises(DataError, match=r"train: 0 class folders.*; 2 images lie in it directly, whose"):
        folder(tree, None)


def test_a_link_to_a_folder_above_multiplies_nothing(tree):
    (tree / "train" / "cat" / "up").symlink_to("..")
    (tree / "train" / "all").symlink_to("..")
    with pytest.warns(UserWarning, match="a link to a folder above it"):
        split = folder(tree, None).splits["train"]
    assert np.bincount(split.labels).tolist() == [3, 3, 3]


def test_the_folder_must_be_named_and_exist(tmp_path):
    with pytest.raises(ConfigError, match="--from DIR"):
        folder(None, None)
    with pytest.raises(DataError, match="gone: no such folder"):
        folder(tmp_path / "gone", None)
