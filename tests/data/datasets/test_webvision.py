"""WebVision itself is not at hand: a made-up tree in its exact layout, with one colour for each class."""

import numpy as np
import pytest
from PIL import Image

from dist_rmd.data.datasets.tiny_imagenet import tiny_imagenet
from dist_rmd.data.datasets.webvision import webvision
from dist_rmd.data.images.pictures import UnreadableImage
from dist_rmd.errors import ConfigError, DataError

SYNSETS = {
    "n01440764": "tench, Tinca tinca",
    "n02012849": "crane",
    "n02124075": "Egyptian cat",
    "n03126707": "crane",
}
COLOURS = dict(zip(SYNSETS, [(200, 10, 10), (10, 200, 10), (10, 10, 200), (150, 150, 10)], strict=True))


def save(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (80, 64), colour).save(path, quality=95)


@pytest.fixture
def tree(tmp_path):
    """Two queries for each class in each search engine, three images each; the last of them shows the next class."""
    root = tmp_path / "webvision"
    (root / "info").mkdir(parents=True)
    (root / "info" / "synsets.txt").write_text("".join(f"{wnid} {words}\n" for wnid, words in SYNSETS.items()))
    for engine in ("google", "flickr"):
        lines = []
        for query in range(8):
            for i in range(3):
                name = f"{engine}/q{query + 1:04d}/{engine}{i} a.jpg"
                save(root / name, [*COLOURS.values()][(query // 2 + (i == 2)) % 4])
                lines.append(f"{name} {query // 2}\n")
        (root / "info" / f"train_filelist_{engine}.txt").write_text("".join(lines))
        (root / "info" / f"queries_{engine}.txt").write_text("".join(f"{q + 1} query {q}\n" for q in range(8)))
    (root / "info" / "queries_synsets_map.txt").write_text("".join(f"{q + 1} {q // 2 + 1}\n" for q in range(8)))
    lines = []
    for i in range(8):
        save(root / "val_images_256" / f"val{i + 1:06d}.jpg", [*COLOURS.values()][i % 4])
        lines.append(f"val{i + 1:06d}.jpg {i % 4}\n")
    (root / "info" / "val_filelist.txt").write_text("".join(lines))
    return root


@pytest.fixture
def tiny(tmp_path):
    """Tiny ImageNet's layout with two of the classes, in another order."""
    root = tmp_path / "tiny"
    wnids = ["n03126707", "n02124075"]
    lines = []
    for wnid in wnids:
        save(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", COLOURS[wnid])
        save(root / "val" / "images" / f"val_{wnid}.JPEG", COLOURS[wnid])
        lines.append(f"val_{wnid}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    (root / "wnids.txt").write_text("\n".join(wnids))
    (root / "words.txt").write_text("".join(f"{wnid}\t{words}\n" for wnid, words in SYNSETS.items()))
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def shown(split):
    """The class whose colour each image shows, by WordNet id."""
    found = []
    for i in range(len(split.files)):
        distance = {wnid: np.abs(split.read(i).astype(int) - colour).max() for wnid, colour in COLOURS.items()}
        found.append(min(distance, key=distance.get))
    return found


def test_all_classes_under_the_labels_of_their_queries(tree):
    source = webvision(tree, None)
    assert (source.name, source.side, source.verified) == ("webvision", 64, False)
    assert source.classes == ("tench", "crane (n02012849)", "Egyptian cat", "crane (n03126707)")
    train, test = source.splits["train"], source.splits["test"]
    assert len(train.files) == len(set(train.files)) == 48
    assert train.files[0] == "google/q0001/google0 a.jpg"
    assert train.files[-1] == "flickr/q0008/flickr2 a.jpg"
    np.testing.assert_array_equal(train.labels, np.tile(np.repeat(np.arange(4), 6), 2))
    wnids = list(SYNSETS)
    right = [wnid == wnids[label] for wnid, label in zip(shown(train), train.labels, strict=True)]
    assert right == [True, True, False] * 16
    assert test.files[0] == "val_images_256/val000001.jpg"
    assert shown(test) == [wnids[label] for label in test.labels]
    assert train.read(0).shape == (64, 64, 3)
    assert webvision(tree, 32).splits["test"].read(0).shape == (32, 32, 3)


def test_some_classes_of_one_engine(tree, tmp_path):
    (tmp_path / "wnids.txt").write_text("n03126707\nn01440764\n")
    source = webvision(tree, None, synsets=tmp_path / "wnids.txt", engines="google")
    assert source.classes == ("tench", "crane")
    train = source.splits["train"]
    np.testing.assert_array_equal(train.labels, [0] * 6 + [1] * 6)
    assert all(file.startswith("google/") for file in train.files)
    assert source.splits["test"].labels.tolist() == [0, 1, 0, 1]


def test_the_classes_and_test_images_of_tiny_imagenet(tree, tiny):
    """So that a teacher trained on Tiny ImageNet fits: the same names in the same order."""
    source = webvision(tree, None, test=tiny)
    reference = tiny_imagenet(tiny, None)
    assert source.classes == reference.classes == ("Egyptian cat", "crane")
    assert source.splits["test"].files == reference.splits["test"].files
    wnids = ["n02124075", "n03126707"]
    assert shown(source.splits["test"]) == [wnids[label] for label in source.splits["test"].labels]
    assert len(source.splits["train"].files) == 24
    with pytest.raises(ConfigError, match="--synsets and --test both say"):
        webvision(tree, None, test=tiny, synsets=tiny / "wnids.txt")


def test_an_image_that_was_not_fetched(tree):
    (tree / "google" / "q0001" / "google0 a.jpg").unlink()
    with pytest.raises(UnreadableImage, match=r"google0 a\.jpg"):
        webvision(tree, None).splits["train"].read(0)


def test_lists_that_windows_saved(tree):
    expected = webvision(tree, None)
    for path in (tree / "info").iterdir():
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode("utf-8-sig"))
    found = webvision(tree, None)
    assert found.classes == expected.classes
    assert all(found.splits[name].files == split.files for name, split in expected.splits.items())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("synsets.txt", "n01440764 tench\n", "1 classes, but at least 2"),
        ("val_filelist.txt", "", "lists no image of the classes"),
        ("val_filelist.txt", "val000001.jpg 0\nval000002.jpg 4\n", "line 2 is not a path and a class in 0..3"),
        ("train_filelist_flickr.txt", "flickr/q0001/a.jpg\n", "line 1 is not a path and a class"),
        ("train_filelist_google.txt", None, "train_filelist_google.txt: No such file"),
        ("synsets.txt", None, "synsets.txt: No such file"),
    ],
)
def test_parts_that_are_missing_or_contradict_each_other(tree, file, content, message):
    path = tree / "info" / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=message):
        webvision(tree, None)


def test_folders_that_are_missing(tree, tiny, tmp_path):
    (tree / "val_images_256").rename(tree / "val_images")
    assert webvision(tree, None).splits["test"].files[0] == "val_images/val000001.jpg"
    (tree / "val_images").rename(tree / "elsewhere")
    with pytest.raises(DataError, match="val_images_256: no such folder; fetch it, or name a Tiny ImageNet"):
        webvision(tree, None)
    assert len(webvision(tree, None, test=tiny).splits["test"].files) == 2
    (tree / "flickr").rename(tree / "nowhere")
    with pytest.raises(DataError, match="flickr: no such folder; fetch it, or choose with --engines"):
        webvision(tree, None, test=tiny)
    assert len(webvision(tree, None, test=tiny, engines="google").splits["train"].files) == 12
    with pytest.raises(ConfigError, match="--engines bing"):
        webvision(tree, None, engines="bing")
    (tmp_path / "wnids.txt").write_text("n01440764 n00000001")
    with pytest.raises(DataError, match=r"wnids\.txt: n00000001 is not in .*synsets\.txt"):
        webvision(tree, None, synsets=tmp_path / "wnids.txt")
    with pytest.raises(ConfigError, match="--from DIR"):
        webvision(None, None)
