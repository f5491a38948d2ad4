import numpy as np
import pytest
from PIL import Image

from dist_rmd import prepare
from dist_rmd.data.datasets.listed import listed
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.errors import ConfigError, DataError

TRAIN = [(f"images/{i % 2}/a, {i}.png", ("cat", "hot dog", "ant")[i % 3]) for i in range(9)]
TEST = [(f"images/2/{i}.png", ("cat", "ant")[i % 2]) for i in range(4)]


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for file, _ in (*TRAIN, *TEST):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / file)
    for name, images in (("train", TRAIN), ("test", TEST)):
        rows = [f'"{file}",{label}' for file, label in images]
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,label", *rows]))
    return tmp_path


def test_tables(root):
    source = listed(root, None)
    assert (source.classes, source.side, source.verified) == (("ant", "cat", "hot dog"), 32, True)
    train = source.splits["train"]
    assert [(file, source.classes[label]) for file, label in zip(train.files, train.labels, strict=True)] == TRAIN
    np.testing.assert_array_equal(train.read(3), np.asarray(Image.open(root / TRAIN[3][0])))


def test_lines_with_a_blank_as_clothing1m_has_them(root):
    """Names with commas and blanks, CRLF, numbers for classes."""
    number = {"cat": 10, "hot dog": 2, "ant": 0}
    for name, images in (("train_kv", TRAIN), ("test_kv", TEST)):
        lines = [f"{file} {number[label]}" for file, label in images]
        (root / f"{name}.txt").write_bytes(("\r\n".join(lines) + "\r\n").encode("utf-8-sig"))
    source = listed(root, None, train="train_kv.txt", test="test_kv.txt")
    assert source.classes == ("0", "2", "10")
    assert source.splits["train"].files == [file for file, _ in TRAIN]
    assert source.splits["test"].labels.tolist() == [2, 0, 2, 0]


def test_it_is_prepared_and_what_is_not_there_is_named_or_skipped(root, tmp_path, capsys):
    (root / TRAIN[4][0]).unlink()
    words = ["listed", str(tmp_path / "out"), "--from", str(root)]
    assert prepare.main(words) == 65
    assert f"{TRAIN[4][0]}: unreadable image" in capsys.readouterr().err
    assert prepare.main([*words, "--skip-bad", "--unverified"]) == 0
    assert open_dataset(tmp_path / "out").skipped["train"] == [TRAIN[4][0]]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("train", None, r"train\.csv: No such file"),
        ("train", "", "lists no images"),
        ("train", "file,label\na.png,cat\nb.png,cat\n", "images of 1 classes, but at least 2"),
        ("train", "file,label\na.png,cat\nb.png,dog\na.png,dog\n", r"line 4: a\.png is listed as cat before"),
        ("train", "file,label\na.png,\n", r"line 2: a\.png has no label"),
        ("train", "a.png 0\nb.png\n", "line 2 is no file and label with a blank.*name the columns file and label"),
        ("test", "file,label\na.png,Cat\n", r"of class 'Cat', which train\.csv does not have; did you mean 'cat'"),
        ("test", "file,label\na.png,emu\n", "is of class 'emu', which"),
    ],
)
def test_mistakes_are_named(root, name, text, words):
    path = root / f"{name}.csv"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=words):
        listed(root, None)


def test_a_line_twice_counts_once_and_is_told(root):
    with open(root / "train.csv", "a") as file:
        file.write(f'\n"{TRAIN[0][0]}",{TRAIN[0][1]}\n')
    with pytest.warns(UserWarning, match=r"train\.csv: 1 lines are there twice, and count once"):
        assert len(listed(root, None).splits["train"].files) == 9


def test_the_folder_must_be_named():
    with pytest.raises(ConfigError, match="--from DIR"):
        listed(None, None)


def test_food101n_leaves_out_the_folder_of_its_images_and_says_the_class_by_the_folder_in_it(root):
    rows = [(file, label.replace(" ", "_")) for file, label in TRAIN]
    for number, (file, label) in enumerate(rows):
        place = root / "images" / label / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        (root / file).rename(place)
    keys = [f"{label}/{number}.jpg" for number, (_, label) in enumerate(rows)]
    (root / "verified_train.tsv").write_text(
        "\n".join(["class_name/key\tverification_label", *(f"{key}\t{i % 2}" for i, key in enumerate(keys))])
    )
    (root / "imagelist.tsv").write_text("\n".join(["class_name/key", *keys]))
    for name in ("verified_train.tsv", "imagelist.tsv"):
        source = listed(root, None, train=name, test="imagelist.tsv")
        assert source.classes == ("ant", "cat", "hot_dog")
        assert source.splits["train"].files == [f"images/{key}" for key in keys]
        assert source.splits["train"].read(0).shape == (32, 32, 3)


def test_animal10n_has_its_labels_in_the_names_of_files(root):
    for split, images in (("training", TRAIN), ("testing", TEST)):
        (root / split).mkdir()
        for number, (file, label) in enumerate(images):
            (root / file).rename(root / split / f"{len(label)}_{number:04d}.jpg")
    source = listed(root, None, train="training", test="testing")
    assert source.classes == ("3", "7")
    assert source.splits["test"].files == [f"testing/3_{i:04d}.jpg" for i in range(4)]
    assert source.splits["train"].labels.tolist() == [
        int(len(label) == 7) for _, label in sorted(TRAIN, key=lambda r: len(r[1]))
    ]
    (root / "training" / "moth.jpg").touch()
    with pytest.raises(DataError, match=r"training: training/moth\.jpg does not begin with a label and an underscore"):
        listed(root, None, train="training", test="testing")


def test_without_a_list_of_test_images_a_tenth_is_held_out(root):
    (root / "test.csv").unlink()
    source = listed(root, None)
    assert (source.held_out, source.verified) == (True, False)
    assert {name: len(split.files) for name, split in source.splits.items()} == {"train": 6, "test": 3}
    assert sorted(source.splits["test"].labels) == [0, 1, 2]


def test_a_list_without_names_is_for_labels_of_images_that_are_known(root):
    (root / "train.csv").write_text("is_label_issue,given_label,predicted_label\nTrue,cat,ant\n")
    with pytest.raises(DataError, match="a list that does not name its images: give it to --labels"):
        listed(root, None)
