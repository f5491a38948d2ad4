"""Open-set images here are cut out of the two photographs that come with scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from dist_rmd.data.augment.views import Views
from dist_rmd.data.datasets.digits import digits
from dist_rmd.data.images.pictures import UnreadableImage
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.labels.view import noisy_view, openset_view
from dist_rmd.data.loading.loader import Loader
from dist_rmd.data.loading.memory_reader import MemoryReader
from dist_rmd.data.prepared import beton
from dist_rmd.data.prepared.open_set import read_exclusions, with_open_set
from dist_rmd.errors import DataError

LISTS = Path(__file__).resolve().parents[3] / "configs" / "modul"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """china/ and flower/ with 60 JPEGs of 16 x 16 each, every tenth of them grey."""
    folder = tmp_path_factory.mktemp("photos")
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir()
        for i in range(60):
            y, x = divmod(i, 12)
            patch = Image.fromarray(photo[16 * y : 16 * y + 16, 40 * x : 40 * x + 16])
            (patch.convert("L") if i % 10 == 0 else patch).save(folder / name / f"{i:02d}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def pooled(photos, tmp_path_factory):
    """The digits and the 120 photographs."""
    return beton.write(with_open_set(digits(None, None), photos), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return beton.write(digits(None, None), tmp_path_factory.mktemp("data"))


def test_images_of_no_class_come_after_the_others(photos):
    source = digits(None, None)
    both = with_open_set(source, photos)
    before, after = source.splits["train"], both.splits["train"]
    count = len(before.labels)
    np.testing.assert_array_equal(after.labels, [*before.labels, *[OPEN] * 120])
    assert after.files[count] == "open/china/00.jpg"
    assert after.files[-1] == "open/flower/59.jpg"
    np.testing.assert_array_equal(after.read(3), before.read(3))
    assert both.splits["test"] is source.splits["test"]
    assert both.classes == source.classes


def test_the_smaller_image_is_not_sharpened(tmp_path):
    """A bicubic filter overshoots at edges."""
    pixels = np.full((16, 16, 3), 60, np.uint8)
    pixels[:, 6:] = 200
    Image.fromarray(pixels).save(tmp_path / "edge.png")
    (row, *_) = with_open_set(digits(None, None), tmp_path).splits["train"].read(1437)[..., 0]
    assert row.tolist() == [60] * 3 + [200] * 5


def test_a_pixel_is_the_mean_of_those_that_it_covers(photos):
    split = with_open_set(digits(None, None), photos).splits["train"]
    for place in (0, 1, 77):
        file = photos / split.files[1437 + place].removeprefix("open/")
        original = np.asarray(Image.open(file).convert("RGB")).astype(float)
        means = original.reshape(8, 2, 8, 2, 3).mean((1, 3))
        assert np.abs(split.read(1437 + place) - means).max() <= 1  # Pillow rounds twice
    grey = split.read(1437)
    assert (grey == grey[..., :1]).all()


def test_one_beton_holds_both(pooled, plain):
    assert (pooled.sizes, pooled.open_images) == ({"train": 1557, "test": 360}, 120)
    np.testing.assert_array_equal(pooled.labels("train"), [*plain.labels("train"), *[OPEN] * 120])
    assert (pooled.mean, pooled.std, pooled.classes) == (plain.mean, plain.std, plain.classes)
    assert (plain.open_images, plain.excluded, plain.verified) == (0, (), True)
    last = (pooled.folder / "train.csv").read_text().splitlines()[-1]
    assert last == "1556,-1,,open/flower/59.jpg"


def batches(dataset, view):
    views = Views(("weak",), dataset.side, dataset.mean, dataset.std, seed=1, compiled=False)
    loader = Loader(MemoryReader(dataset.beton("train"), torch.device("cpu")), view, views, 100, 1, 0, 1)
    return list(loader.epoch(0))


def test_who_does_not_ask_for_them_sees_the_same_bits_as_without_them(pooled, plain):
    one, other = (
        batches(dataset, noisy_view(dataset.labels("train"), 10, "symmetric", 0.4, seed=0))
        for dataset in (pooled, plain)
    )
    assert len(one) == len(other) == 14
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.views[0], b.views[0])
        assert torch.equal(a.labels, b.labels)


def test_batches_hold_the_images_and_labels_of_the_view(pooled):
    view = openset_view(pooled.labels("train"), 10, 0.1, 0.5, seed=0)
    assert view.counts == {"clean": 1293, "closed": 72, "open": 72}
    where = {index: place for place, index in enumerate(view.indices.tolist())}
    seen = 0
    for batch in batches(pooled, view):
        places = [where[index] for index in batch.indices.tolist()]
        np.testing.assert_array_equal(batch.labels, view.given[places])
        coloured = (batch.views[0][:, 0] != batch.views[0][:, 1]).flatten(1).any(1)  # no digit is
        opened = view.true[places] == OPEN
        assert not (coloured.numpy() & ~opened).any()
        seen += int(coloured.sum())
    assert seen > 50


def test_folders_are_left_out_by_name(photos):
    with pytest.warns(UserWarning, match="1 of the 2 folders to be left out are not there, n01440764 first"):
        both = with_open_set(digits(None, None), photos, ["flower", "n01440764"])
    assert both.excluded == ("flower",)
    assert all(file.startswith("open/china/") for file in both.splits["train"].files[1437:])
    with pytest.raises(DataError, match=r"has none of the 2 folders to be left out, such as n01440764"):
        with_open_set(digits(None, None), photos, ["n01440765", "n01440764"])
    with pytest.raises(DataError, match="no images to draw from"):
        with_open_set(digits(None, None), photos, ["flower", "china"])
    with pytest.raises(DataError, match="gone: no such folder"):
        with_open_set(digits(None, None), photos / "gone")


@pytest.mark.parametrize("name", ["Flower", '"flower"', "flower,", "flower;", "\ufeffflower", "flow er"])
def test_a_name_that_only_looks_like_a_folders_lets_nothing_in(photos, name):
    if name == "flow er":
        with pytest.raises(DataError, match="has none of the 1 folders"):
            with_open_set(digits(None, None), photos, [name])
        return
    with pytest.raises(DataError, match=r"has no .* to leave out, but 'flower': mend the list"):
        with_open_set(digits(None, None), photos, [name, "china"])


def test_a_folder_left_out_is_so_behind_a_link(photos, tmp_path):
    for name, target in {"china": "china", "flower": "flower", "a": "flower"}.items():
        (tmp_path / name).symlink_to(photos / target)
    both = with_open_set(digits(None, None), tmp_path, ["flower"])
    assert {file.split("/")[1] for file in both.splits["train"].files[1437:]} == {"china"}


def test_a_flat_folder(photos):
    both = with_open_set(digits(None, None), photos / "china")
    assert both.splits["train"].files[1437:1439] == ["open/00.jpg", "open/01.jpg"]
    with pytest.raises(DataError, match="has none of the 1 folders"):
        with_open_set(digits(None, None), photos / "china", ["n01440764"])


def test_an_unreadable_image_is_refused_or_left_out(tmp_path, photos):
    for name in ("00.jpg", "01.jpg"):
        (tmp_path / name).write_bytes((photos / "china" / name).read_bytes())
    (tmp_path / "02.jpg").write_bytes(b"no image")
    source = with_open_set(digits(None, None), tmp_path)
    with pytest.raises(UnreadableImage, match=r"02\.jpg: unreadable image"):
        beton.write(source, tmp_path / "out")
    written = beton.write(source, tmp_path / "out", skip_bad=True)
    assert (written.open_images, written.skipped["train"]) == (2, ["open/02.jpg"])
    assert written.sizes["train"] == 1439


def test_a_list_of_names(tmp_path):
    (tmp_path / "list.txt").write_text("# cars\n\nn01  # a car\n  my folder\n")
    assert read_exclusions(tmp_path / "list.txt") == ["n01", "my folder"]
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "list.txt").write_bytes("# cars\r\nn01\r\nmy folder\r\n".encode(encoding))
        assert read_exclusions(tmp_path / "list.txt") == ["n01", "my folder"]
    (tmp_path / "list.txt").write_bytes("n01\n".encode("utf-16-le"))
    with pytest.raises(DataError, match="holds NUL"):
        read_exclusions(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="lists no folder to leave out"):
        read_exclusions(tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"gone\.txt: No such file"):
        read_exclusions(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("dataset", "listed", "not_listed"),
    [
        # goose, tailed frog, Chihuahua, tabby, moving van, sports car, lifeboat; lion, gazelle, school bus, tractor
        (
            "cifar10",
            "n01855672 n01644900 n02085620 n02123045 n03796401 n04285008 n03662601",
            "n02129165 n02423022 n04146614 n04465501",
        ),
        # lion, school bus, bell pepper, orange, goldfish, alp; Chihuahua, sports car, lemon, teapot
        (
            "cifar100",
            "n02129165 n04146614 n07720875 n07747607 n01443537 n09193705",
            "n02085620 n04285008 n07749582 n04398044",
        ),
    ],
)
def test_the_lists_for_cifar(dataset, listed, not_listed):
    path = LISTS / f"exclude-{dataset}.txt"
    names = read_exclusions(path)
    assert len(set(names)) == len(names) > 200
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdecimal() for name in names)
    assert set(listed.split()) <= set(names)
    assert not set(not_listed.split()) & set(names)
