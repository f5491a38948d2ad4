import inspect
import sys

import pytest

from dist_rmd.data.images.trees import class_folders, holds_images, image_files, images_beside
from dist_rmd.errors import DataError


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder, without=()):
    return [str(path.relative_to(folder)) for path in image_files(folder, without)]


def test_image_files_are_sorted_found_deep_and_told_from_others(tmp_path):
    make(tmp_path, "b.PNG", "a.jpeg", "deep/er/c.webp", "deep.1/d.tif", "notes.txt", ".hidden.png", ".thumbs/x.png")
    with pytest.warns(UserWarning, match=r"left out 1 files that are no images, .*notes\.txt first"):
        assert found(tmp_path) == ["a.jpeg", "b.PNG", "deep/er/c.webp", "deep.1/d.tif"]


@pytest.mark.parametrize("name", ["a.TIF", "a.tiff", "a.jfif", "a.jpe", "a.ppm", "a.pgm"])
def test_less_common_suffixes_are_images_too(tmp_path, name):
    make(tmp_path, name)
    assert found(tmp_path) == [name]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(DataError, match="gone: cannot be listed"):
        list(image_files(tmp_path / "gone"))


@pytest.mark.parametrize("target", ["..", ".", "../..", "../../..", "{absolute}"])
def test_a_link_to_a_folder_above_is_not_followed(tmp_path, target):
    make(tmp_path, "train/cat/1.png", "train/dog/2.png")
    link = tmp_path / "train" / "cat" / "up"
    link.symlink_to(target.format(absolute=tmp_path / "train"))
    with pytest.warns(UserWarning, match=r"cat/up: "):
        assert found(tmp_path / "train" / "cat") == ["1.png"]


def test_a_way_back_through_several_links_is_not_followed(tmp_path):
    make(tmp_path, "data/train/cat/1.png", "data/train/dog/2.png", "elsewhere/more/3.png")
    (tmp_path / "data" / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data" / "train")
    with pytest.warns(UserWarning, match="cat/more/back: a link to a folder above it"):
        assert found(tmp_path / "data" / "train" / "cat") == ["1.png", "more/more/3.png"]


def test_a_class_that_is_a_link_is_walked_and_its_way_up_is_not(tmp_path):
    make(tmp_path, "store/cats/1.png", "store/dogs/2.png", "data/train/dog/3.png")
    (tmp_path / "data" / "train" / "cat").symlink_to(tmp_path / "store" / "cats")
    (tmp_path / "store" / "cats" / "up").symlink_to("..")
    with pytest.warns(UserWarning, match="cat/up: a link to a folder above it"):
        assert found(tmp_path / "data" / "train" / "cat") == ["1.png"]


def test_a_folder_behind_two_links_is_read_once(tmp_path):
    make(tmp_path, "cat/1.png", "more/2.png", "more/deep/3.png")
    (tmp_path / "cat" / "x").symlink_to(tmp_path / "more")
    (tmp_path / "cat" / "y").symlink_to(tmp_path / "more" / "deep")
    (tmp_path / "cat" / "z").symlink_to(tmp_path / "more")
    with pytest.warns(UserWarning, match=r"cat/y: the same folder as .*cat/x/deep, read once; 2 such folders in all"):
        assert found(tmp_path / "cat") == ["1.png", "x/2.png", "x/deep/3.png"]


def test_a_link_into_another_class_is_followed_and_two_that_lead_to_each_other_end(tmp_path):
    make(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / "cat" / "dogs").symlink_to(tmp_path / "dog")
    (tmp_path / "dog" / "cats").symlink_to(tmp_path / "cat")
    with pytest.warns(UserWarning, match="read once"):
        assert found(tmp_path / "cat") == ["1.png", "dogs/2.png"]
    with pytest.warns(UserWarning, match="read once"):
        assert found(tmp_path / "dog") == ["2.png", "cats/1.png"]


def test_what_is_left_out_is_so_behind_every_link(tmp_path):
    make(tmp_path, "n01/1.png", "n02/2.png", "n02/deep/3.png")
    (tmp_path / "aa").symlink_to("n01")
    (tmp_path / "n02" / "more").symlink_to("../n01")
    assert found(tmp_path, without=[tmp_path / "n01"]) == ["n02/2.png", "n02/deep/3.png"]


def test_a_tree_deeper_than_the_stack_of_calls(tmp_path):
    make(tmp_path, "/".join(["d"] * 200) + "/1.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        found = list(image_files(tmp_path))
    finally:
        sys.setrecursionlimit(limit)
    assert len(found) == 1


def test_links_up_are_no_classes_and_one_folder_may_be_two(tmp_path):
    make(tmp_path, "train/cat/1.png", "train/3.png", "train/.hidden/2.png")
    for name, target in {"all": "..", "self": ".", "kitten": "cat", "gone": "nowhere"}.items():
        (tmp_path / "train" / name).symlink_to(target)
    with pytest.warns(UserWarning, match="train/") as warned:
        assert class_folders(tmp_path / "train") == ["cat", "kitten"]
    assert [str(w.message).rpartition("/")[2] for w in warned] == [
        "gone: a link that leads nowhere, so no class",
        "all: a link to a folder above it, which is no class",
        "kitten: the same folder as cat: its images are taken under both names",
        "self: a link to a folder above it, which is no class",
    ]
    assert [path.name for path in images_beside(tmp_path / "train")] == ["3.png"]


def test_whether_there_are_images_at_all(tmp_path):
    make(tmp_path, "a/b/1.png", "c/notes.txt")
    assert [holds_images(tmp_path / name) for name in "ac"] == [True, False]
