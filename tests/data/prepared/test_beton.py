import csv
import dataclasses
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.data.images.pictures import UnreadableImage
from dist_rmd.data.prepared import beton
from dist_rmd.errors import CannotCreate, DataError, WriteFailed

CLASSES = ("cat", "dog, hot", 'b"rd')


def make_source(sizes=(50, 20), side=16, bad=(), seed=0):
    """Random images, each a function of its split and place; those in `bad` ("train/0003") are unreadable."""

    def split(name, size):
        images = np.random.default_rng([seed, size]).integers(0, 256, (size, side, side, 3), np.uint8)
        files = [f"{name}/{i:04d}" for i in range(size)]

        def read(i):
            if files[i] in bad:
                raise UnreadableImage(f"/somewhere/{files[i]}: unreadable image (cut off)")
            return images[i]

        return Split(np.arange(size, dtype=np.int64) % 3, files, read)

    return RawDataset("made-up", side, CLASSES, {"train": split("train", sizes[0]), "test": split("test", sizes[1])})


def pixels(path):
    """Images and indices as FFCV's own reader finds them."""
    from ffcv.reader import Reader

    reader = Reader(str(path))
    assert reader.field_names == ["image", "index"]
    raw, (image, index) = path.read_bytes(), reader.metadata.dtype.names
    sides = [(int(row["height"]), int(row["width"])) for row in reader.metadata[image]]
    starts = [int(row["data_ptr"]) for row in reader.metadata[image]]
    sizes = dict(zip(reader.alloc_table["ptr"].tolist(), reader.alloc_table["size"].tolist(), strict=True))
    assert sizes == {start: h * w * 3 for start, (h, w) in zip(starts, sides, strict=True)}
    images = [
        np.frombuffer(raw, np.uint8, h * w * 3, start).reshape(h, w, 3)
        for start, (h, w) in zip(starts, sides, strict=True)
    ]
    return np.stack(images), reader.metadata[index]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "deep" / "made-up"
    return beton.write(make_source(), out)


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written.folder, tmp_path / "copy")


def test_ffcv_finds_every_image_in_its_place(written):
    for name, split in make_source().splits.items():
        images, index = pixels(written.beton(name))
        np.testing.assert_array_equal(index, np.arange(len(split.labels)))
        np.testing.assert_array_equal(images, [split.read(i) for i in range(len(split.labels))])


@pytest.mark.parametrize(("count", "side", "page"), [(1, 8, 2**21), (700, 64, 2**21), (70, 296, 2**23)])
def test_the_bytes_are_those_of_ffcvs_writer(tmp_path, count, side, page):
    """170 images of 64 x 64 fill a page of 2 MiB, up to a rest that fits none."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    split = make_source(sizes=(count, 1), side=side).splits["train"]
    fields = {"image": RGBImageField(write_mode="raw", max_resolution=side), "index": IntField()}

    class Images:
        def __len__(self):
            return count

        def __getitem__(self, i):
            return split.read(i), i

    DatasetWriter(str(tmp_path / "theirs"), fields, page_size=page, num_workers=1).from_indexed_dataset(Images())
    beton._write_beton(tmp_path / "ours", map(split.read, range(count)), count, side)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_images_that_fill_many_pages(tmp_path):
    """Pages of 8 MiB hold 31 images of 296 x 296 and a rest that fits no image: 70 take three pages."""
    source = make_source(sizes=(70, 1), side=296)
    written = beton.write(source, tmp_path)
    images, _ = pixels(written.beton("train"))
    np.testing.assert_array_equal(images, [source.splits["train"].read(i) for i in range(70)])
    assert written.beton("train").stat().st_size > 4 * 8 * 2**20


def test_labels_classes_and_files_are_stored(written):
    assert (written.name, written.side, written.classes) == ("made-up", 16, CLASSES)
    assert written.sizes == {"train": 50, "test": 20}
    for name, split in make_source().splits.items():
        labels = written.labels(name)
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, split.labels)
        assert written.files(name) == split.files
    with open(written.folder / "test.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:2] == [["index", "label", "class", "file"], ["0", "0", "cat", "test/0000"]]
    assert rows[2] == ["1", "1", "dog, hot", "test/0001"]


def test_mean_and_std_are_those_of_all_train_pixels(written):
    split = make_source().splits["train"]
    values = np.stack([split.read(i) for i in range(50)]).reshape(-1, 3) / 255.0
    np.testing.assert_allclose(written.mean, values.mean(0), rtol=1e-13)
    np.testing.assert_allclose(written.std, values.std(0), rtol=1e-12)


def test_only_the_five_files_remain_and_the_manifest_describes_them(written):
    names = ["manifest.json", "test.beton", "test.csv", "train.beton", "train.csv"]
    assert sorted(path.name for path in written.folder.iterdir()) == names
    manifest = json.loads((written.folder / "manifest.json").read_text())
    for split in manifest["splits"].values():
        assert split["skipped"] == []
        for part in ("beton", "labels"):
            content = (written.folder / split[part]["file"]).read_bytes()
            assert split[part]["bytes"] == len(content)
            assert split[part]["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_same_images_give_the_same_hashes_and_others_do_not(written, tmp_path):
    assert beton.write(make_source(), tmp_path / "again").hashes == written.hashes
    other = beton.write(make_source(seed=1), tmp_path / "other")
    assert other.hashes["train"] != written.hashes["train"]
    assert beton.open_dataset(written.folder) == written


def test_ffcvs_layout_is_the_one_written_down_here(written):
    from ffcv.reader import Reader
    from ffcv.types import FieldDescType, HeaderType

    assert [beton.HEADER.fields[name][1] for name in beton.HEADER.names] == [
        HeaderType.fields[name][1] for name in HeaderType.names
    ]
    assert beton.HEADER.itemsize == HeaderType.itemsize
    assert beton.FIELD.itemsize == FieldDescType.itemsize
    theirs = Reader(str(written.beton("train"))).metadata.dtype
    assert beton.SAMPLE.itemsize == theirs.itemsize
    assert [offset for _, offset in beton.SAMPLE.fields.values()] == [theirs.fields[name][1] for name in theirs.names]


def test_neither_writing_nor_opening_imports_ffcv(written, tmp_path):
    """ffcv takes seconds to import, and is not everywhere; `open_dataset` runs in every process of a job."""
    script = f"""if True:
        import sys
        from pathlib import Path
        from dist_rmd.data.prepared.beton import open_dataset
        assert open_dataset(Path({str(written.folder)!r})).sizes["train"] == 50
        from dist_rmd.prepare import main
        assert main(["digits", {str(tmp_path / "digits")!r}]) == 0
        assert not {{"ffcv", "numba"}} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_an_unreadable_image_stops_the_writing_and_leaves_nothing(tmp_path):
    source = make_source(bad=("train/0031",))
    before = threading.active_count()
    with pytest.raises(UnreadableImage, match=r"/somewhere/train/0031: unreadable image \(cut off\); .*--skip-bad"):
        beton.write(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    for _ in range(100):  # threads end by themselves
        if threading.active_count() == before:
            return
        time.sleep(0.05)
    raise AssertionError(f"{threading.active_count() - before} threads are left")


def test_skipped_images_are_left_out_and_listed(tmp_path):
    bad = ("train/0000", "train/0031", "test/0019")
    source = make_source(bad=bad)
    written = beton.write(source, tmp_path, skip_bad=True)
    assert written.sizes == {"train": 48, "test": 19}
    assert written.skipped == {"train": list(bad[:2]), "test": list(bad[2:])}
    split = source.splits["train"]
    kept = [i for i in range(50) if i not in (0, 31)]
    images, index = pixels(written.beton("train"))
    np.testing.assert_array_equal(images, [split.read(i) for i in kept])
    np.testing.assert_array_equal(index, np.arange(48))
    np.testing.assert_array_equal(written.labels("train"), split.labels[kept])
    assert written.files("train") == [split.files[i] for i in kept]


def test_a_split_without_images(tmp_path):
    with pytest.raises(DataError, match="none of the 2 test images can be read"):
        beton.write(make_source((5, 2), bad=("test/0000", "test/0001")), tmp_path, skip_bad=True)
    with pytest.raises(DataError, match="none of the 0 train images"):
        beton.write(make_source((0, 2)), tmp_path)


def test_images_of_one_colour_teach_nothing(tmp_path):
    source = make_source((5, 2))
    black = Split(np.zeros(5, np.int64), list("abcde"), lambda i: np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataError, match="all train images have one colour"):
        beton.write(RawDataset("black", 16, CLASSES, {**source.splits, "train": black}), tmp_path)


def test_a_channel_that_is_the_same_everywhere_is_divided_by_1(tmp_path):
    """Fluorescence: two channels of three are empty."""
    source = make_source()
    train = source.splits["train"]
    green = Split(train.labels, train.files, lambda i: train.read(i) * np.array([0, 1, 0], np.uint8))
    with pytest.warns(UserWarning, match="its std is taken as 1") as warned:
        dataset = beton.write(RawDataset("cells", 16, CLASSES, {**source.splits, "train": green}), tmp_path)
    assert [str(warning.message).partition(":")[0] for warning in warned] == [
        "R is the same in all train images", "B is the same in all train images",
    ]  # fmt: skip
    assert (dataset.mean[0], dataset.std[0], dataset.std[2]) == (0, 1, 1)
    assert 0.2 < dataset.std[1] < 0.4


def test_a_class_that_lost_all_its_images_is_refused(tmp_path):
    lost = [f"train/{i:04d}" for i in range(0, 50, 3)]
    with pytest.raises(DataError, match="of class cat, none of the train images can be read; mend them"):
        beton.write(make_source(bad=lost), tmp_path, skip_bad=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(UserWarning, match=r'of class b"rd, none of the test images can be read; 1 classes in all'):
        beton.write(make_source(bad=[f"test/{i:04d}" for i in range(2, 20, 3)]), tmp_path, skip_bad=True)


def test_pictures_that_are_there_twice_are_told(tmp_path):
    source = make_source()
    train, test = source.splits["train"], source.splits["test"]
    copies = {1: lambda: test.read(4), 7: lambda: train.read(3), 10: lambda: train.read(4)}  # of classes 1, 1, 1
    changed = Split(train.labels, train.files, lambda i: copies[i]() if i in copies else train.read(i))
    with pytest.warns(UserWarning, match="= train/0") as warned:
        beton.write(RawDataset("copies", 16, CLASSES, {"train": changed, "test": test}), tmp_path)
    leak, twice = (str(warning.message) for warning in warned)
    assert leak == (
        "1 of the 20 test images are train images too, test/0004 (dog, hot) = train/0001 (dog, hot) first: accuracies "
        "will be too high"
    )
    assert twice == (
        "2 train images are copies of each other under different labels, train/0003 (cat) = train/0007 (dog, hot) first"
    )


def test_what_a_killed_call_left_is_taken_away_by_the_next(tmp_path):
    script = (
        "import os, signal, sys; sys.path[:0] = ['tests/data/prepared']\n"
        "from pathlib import Path; from test_beton import make_source; from dist_rmd.data.prepared import beton\n"
        "from dataclasses import replace\n"
        "source = make_source(); train = source.splits['train']\n"
        "dying = replace(train, read=lambda i: os.kill(os.getpid(), signal.SIGKILL) if i == 40 else train.read(i))\n"
        f"beton.write(replace(source, splits={{**source.splits, 'train': dying}}), Path({str(tmp_path)!r}))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert [path.name[:9] for path in tmp_path.iterdir()] == [".partial-"]
    beton.write(make_source(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json", "test.beton", "test.csv", "train.beton", "train.csv",
    ]  # fmt: skip


def test_replacing_a_dataset_keeps_the_old_one_until_the_end(copy):
    old = beton.open_dataset(copy)
    with pytest.raises(UnreadableImage):
        beton.write(make_source(seed=1, bad=("test/0019",)), copy)
    assert beton.open_dataset(copy) == old
    new = beton.write(make_source((9, 4), seed=1), copy)
    assert beton.open_dataset(copy) == new
    assert new.sizes == {"train": 9, "test": 4}


def test_a_broken_exchange_is_not_taken_for_a_dataset(copy, monkeypatch):
    """Death between the renames: some files are new, some old, and there is no manifest."""
    real = beton.os.replace

    def replace(source, target):
        if str(target).endswith("train.beton"):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(beton.os, "replace", replace)
    with pytest.raises(WriteFailed, match="Input/output error"):
        beton.write(make_source(seed=1), copy)
    with pytest.raises(DataError, match=r"no manifest\.json"):
        beton.open_dataset(copy)


@pytest.mark.parametrize("limit", [1_000, 1_000_000, 3_000_000, 4_194_304, 4_195_000])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, limit):
    """RLIMIT_FSIZE makes writes come up short, then fail, as a full disk does, from the header to the final table."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(WriteFailed, match=r"out: cannot be written \(.*MB free on its disk\)"):
            beton.write(make_source(), tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        with pytest.raises(CannotCreate, match=f"{place}: cannot be created"):
            beton.write(make_source((3, 3)), tmp_path / place)


def test_memory_does_not_grow_with_the_dataset(tmp_path):
    """At most a few images are alive, however many there are."""
    alive, most, lock = 0, 0, threading.Lock()

    class Image(np.ndarray):
        def __del__(self):
            nonlocal alive
            if self.base is None:
                with lock:
                    alive -= 1

    def read(i):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        image = np.ndarray.__new__(Image, (16, 16, 3), np.uint8)
        image[:] = i % 251
        return image

    size = 1000
    split = Split(np.arange(size) % 3, [str(i) for i in range(size)], read)
    beton.write(RawDataset("many", 16, CLASSES, {"train": split, "test": split}), tmp_path)
    assert most <= 5 * (beton.os.cpu_count() or 1) + 4


def edit_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder, message):
    with pytest.raises(DataError, match=message) as raised:
        beton.open_dataset(folder)
    assert "python -m dist_rmd.prepare" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_folder_manifest_or_file(copy, tmp_path):
    refused(tmp_path / "gone", "gone: no such dataset")
    (copy / "test.csv").unlink()
    refused(copy, r"test\.csv: No such file")
    (copy / "train.beton").unlink()
    refused(copy, r"train\.beton: No such file")
    (copy / "manifest.json").unlink()
    refused(copy, r"copy: no manifest\.json")


def test_what_is_meant_instead_of_a_dataset_is_said(written, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"train\.beton: a file, but a dataset is the folder .*made-up$"):
        beton.open_dataset(written.folder / "train.beton")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    refused(tmp_path, f"make one of the images in it: python -m dist_rmd.prepare folder OUT --from {tmp_path}")
    monkeypatch.chdir(tmp_path)
    refused(beton.Path("data"), f"data: no such dataset below {tmp_path}; make it anew")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "splits": {}}'])
def test_a_broken_manifest(copy, content):
    (copy / "manifest.json").write_text(content)
    refused(copy, r"manifest\.json: not a manifest")


def test_a_manifest_of_the_future(copy):
    edit_manifest(copy, lambda manifest: manifest.update(format=4))
    refused(copy, r"manifest\.json: format 4, but this version reads up to 3")


def test_a_manifest_of_the_past(copy, written):
    """Before there were images of none of the classes, and labels that nobody has verified."""

    def age(manifest):
        manifest["format"] = 1
        for key in ("verified", "excluded"):
            del manifest[key]
        for split in manifest["splits"].values():
            del split["open"]

    edit_manifest(copy, age)
    assert beton.open_dataset(copy) == dataclasses.replace(written, folder=copy)


def with_pool(source, images=5):
    """The same with images of none of the classes at the end."""
    train = source.splits["train"]
    count = len(train.labels)
    pixels = np.random.default_rng(9).integers(0, 9, (images, source.side, source.side, 3), np.uint8)
    labels, files = [*train.labels, *[-1] * images], [*train.files, *(f"open/{i}" for i in range(images))]
    both = Split(np.array(labels), files, lambda i: train.read(i) if i < count else pixels[i - count])
    return dataclasses.replace(source, splits={**source.splits, "train": both}, excluded=("dogs",), verified=False)


def test_images_of_none_of_the_classes(written, tmp_path):
    both = beton.write(with_pool(make_source()), tmp_path)
    assert (both.sizes, both.open_images, both.excluded) == ({"train": 55, "test": 20}, 5, ("dogs",))
    assert (both.mean, both.std, both.verified) == (written.mean, written.std, False)
    images, index = pixels(both.beton("train"))
    np.testing.assert_array_equal(images[:50], pixels(written.beton("train"))[0])
    assert images[50:].max() < 9
    np.testing.assert_array_equal(index, np.arange(55))
    assert both.labels("train").tolist()[48:] == [0, 1, -1, -1, -1, -1, -1]
    edit_manifest(tmp_path, lambda manifest: manifest["splits"]["train"].update(open=4))
    refused(tmp_path, r"train\.csv: 5 labels -1, but the manifest says 4")


def test_images_of_none_of_the_classes_alone_are_no_dataset(tmp_path):
    bad = tuple(f"train/{i:04d}" for i in range(3))
    with pytest.raises(DataError, match="none of the 3 train images can be read"):
        beton.write(with_pool(make_source((3, 2), bad=bad)), tmp_path, skip_bad=True)


def test_a_truncated_beton(copy):
    path = copy / "train.beton"
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(size - 1)
    refused(copy, rf"train\.beton: {size - 1} bytes, but the manifest says {size}")


def test_a_beton_that_disagrees_with_the_manifest(copy):
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"].update(images=49))
    refused(copy, r"train\.beton: holds 50 images, but the manifest says 49")
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"].update(images=50))
    edit_manifest(copy, lambda manifest: manifest.update(side=32))
    refused(copy, r"train\.beton: images of width 16, but the manifest says 32")


def test_a_file_that_is_no_beton_or_has_a_damaged_table(copy):
    path = copy / "train.beton"
    content = bytearray(path.read_bytes())
    table = beton.HEADER.itemsize + 2 * beton.FIELD.itemsize
    content[table + 16] = 9  # the first image's index
    path.write_bytes(content)
    refused(copy, r"train\.beton: its table of images is damaged")
    path.write_bytes(bytes(len(content)))
    refused(copy, r"train\.beton: not a beton that prepare wrote")
    path.write_bytes(b"")
    edit_manifest(copy, lambda manifest: manifest["splits"]["train"]["beton"].update(bytes=0))
    refused(copy, r"train\.beton: not a beton that prepare wrote")


def test_labels_that_do_not_fit(copy):
    path = copy / "test.csv"
    lines = path.read_text().splitlines(keepends=True)
    for changed, message in {
        "".join(lines[:-1]): "19 rows, but the manifest says 20",
        "".join([*lines[:-1], "19,3,cat,test/0019\n"]): r"labels 0\.\.3, but the classes are 0\.\.2",
        "".join([*lines[:-1], "19,-1,cat,test/0019\n"]): r"labels -1\.\.2, but the classes are 0\.\.2",
        "".join([*lines[:-1], "19,x,cat,test/0019\n"]): "a label is not a number",
        "".join([*lines[:-1], "19\n"]): "a label is not a number",
        "".join(lines[1:]): "does not begin with index,label,class,file",
        "".join([*lines[:-1], "19,0,cat,test/0019\n"]): "changed since it was written",
    }.items():
        path.write_text(changed)
        refused(copy, rf"test\.csv: {message}")
