import numpy as np
import pytest
from PIL import Image

from dist_rmd.data.datasets.tiny_imagenet import tiny_imagenet
from dist_rmd.errors import DataError

COLOURS = {"n03": (200, 10, 10), "n01": (10, 200, 10), "n02": (10, 10, 200), "n04": (9, 9, 9)}


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "wnids.txt").write_text("n03\nn01\nn02\nn04\n")
    (tmp_path / "words.txt").write_text("n00\tnothing\nn01\tcrane, machine\nn02\tcrane, bird\nn03\tEgyptian cat\n")
    (tmp_path / "val" / "images").mkdir(parents=True)
    lines = []
    for number, (wnid, colour) in enumerate(COLOURS.items()):
        images = tmp_path / "train" / wnid / "images"
        images.mkdir(parents=True)
        (tmp_path / "train" / wnid / f"{wnid}_boxes.txt").touch()
        for i in range(3):
            Image.new("RGB", (64, 64), colour).save(images / f"{wnid}_{i}.JPEG")
        Image.new("RGB", (64, 64), colour).save(tmp_path / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def test_names_come_from_words_and_stay_unique(tree):
    source = tiny_imagenet(tree, None)
    assert (source.name, source.side) == ("tiny_imagenet", 64)
    assert source.classes == ("crane (n01)", "crane (n02)", "Egyptian cat", "n04")


def test_labels_belong_to_their_images(tree):
    source = tiny_imagenet(tree, None)
    assert {name: len(split.files) for name, split in source.splits.items()} == {"train": 12, "test": 4}
    for split in source.splits.values():
        for i in range(len(split.files)):
            colour = COLOURS[sorted(COLOURS)[split.labels[i]]]
            assert np.abs(split.read(i).astype(int) - colour).max() <= 4
    assert source.splits["train"].files[0] == "train/n01/images/n01_0.JPEG"
    assert tiny_imagenet(tree, 32).splits["test"].read(0).shape == (32, 32, 3)


def test_texts_that_windows_saved(tree):
    expected = tiny_imagenet(tree, None)
    for path in (tree / "wnids.txt", tree / "words.txt", tree / "val" / "val_annotations.txt"):
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode("utf-8-sig"))
    found = tiny_imagenet(tree, None)
    assert found.classes == expected.classes
    assert all(found.splits[name].files == split.files for name, split in expected.splits.items())


def test_validation_images_sorted_into_folders(tree):
    """As many scripts leave them: val/<wnid>/images/*, and no annotations; training images without images/."""
    expected = tiny_imagenet(tree, None)
    wnids = sorted((tree / "wnids.txt").read_text().split())
    split = expected.splits["test"]
    for file, label in zip(split.files, split.labels.tolist(), strict=True):
        place = tree / "val" / wnids[label] / "images"
        place.mkdir(parents=True, exist_ok=True)
        (tree / file).rename(place / (tree / file).name)
    (tree / "val" / "val_annotations.txt").unlink()
    for path in (tree / "train" / wnids[0] / "images").iterdir():
        path.rename(path.parent.parent / path.name)
    (tree / "train" / wnids[0] / "images").rmdir()
    found = tiny_imagenet(tree, None)
    assert np.bincount(found.splits["test"].labels).tolist() == np.bincount(split.labels).tolist()
    assert np.bincount(found.splits["train"].labels).tolist() == np.bincount(expected.splits["train"].labels).tolist()
    assert found.splits["test"].files[0].startswith(f"val/{wnids[0]}/images/")


def test_folders_that_are_not_listed_are_told(tree):
    (tree / "train" / "n00").mkdir()
    with pytest.warns(UserWarning, match=r"train: left out 1 folders that wnids\.txt does not list, n00 first"):
        tiny_imagenet(tree, None)


def test_parts_that_are_missing_or_contradict_each_other(tree):
    annotations = tree / "val" / "val_annotations.txt"
    lines = annotations.read_text()
    for content, message in {
        lines + "val_9.JPEG\tn99\t0\n": "val_annotations.txt: val_9.JPEG is of class 'n99'",
        lines + "nonsense\n": "val_annotations.txt: nonsense is of class ''",
        "": "lists no images",
    }.items():
        annotations.write_text(content)
        with pytest.raises(DataError, match=message):
            tiny_imagenet(tree, None)
    annotations.write_text(lines)
    for path in (annotations, tree / "words.txt", tree / "wnids.txt"):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(DataError, match=f"{path.name}: No such file or directory; it belongs to"):
            tiny_imagenet(tree, None)
        path.write_bytes(content)
    (tree / "wnids.txt").write_text("n01 n55")
    with pytest.raises(DataError, match="n55/images: cannot be listed"):
        tiny_imagenet(tree, None)
