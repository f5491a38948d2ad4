"""Sheets: every tile is the image that index.csv says, missing sheets are left out, mistakes are one line."""

import csv

import numpy as np
import pytest
from PIL import Image

from dist_rmd.data.datasets.sheets import sheets
from dist_rmd.data.images.pictures import UnreadableImage
from dist_rmd.data.prepared import beton
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.prepare import main

WIDE, HIGH = 4, 2  # tiles of a sheet
CLASSES = ("bird", "cat", "dog")


@pytest.fixture
def folder(tmp_path):
    """Three sheets of train, a class each, and one of test; returns the folder and the tiles, by split and file."""
    draw, tiles = np.random.default_rng(0), {}
    for split, count in (("train", 3), ("test", 1)):
        place = tmp_path / "sheets" / split
        place.mkdir(parents=True)
        rows = []
        for sheet in range(count):
            pixels = draw.integers(0, 256, (HIGH * 32, WIDE * 32, 3), np.uint8)
            suffix, options = (".png", {}) if sheet == 1 else (".webp", {"lossless": True})
            Image.fromarray(pixels).save(place / f"{sheet:02d}{suffix}", **options)
            for cell in range(WIDE * HIGH):
                name = CLASSES[sheet if split == "train" else cell % 3]
                top, left = (32 * n for n in divmod(cell, WIDE))
                tiles[f"{split}/{name}/{sheet}-{cell}.png"] = pixels[top : top + 32, left : left + 32]
                rows.append([f"{sheet:02d}", cell, name, f"{sheet}-{cell}.png"])
        with open(place / "index.csv", "w", newline="") as file:
            csv.writer(file).writerows([["sheet", "cell", "class", "file"], *rows])
    return tmp_path / "sheets", tiles


def test_every_image_is_its_tile(folder, tmp_path):
    place, tiles = folder
    source = sheets(place, None)
    assert (source.side, source.classes, source.verified) == (32, CLASSES, True)
    found = {}
    for split in source.splits.values():
        for i, (file, label) in enumerate(zip(split.files, split.labels, strict=True)):
            assert source.classes[label] == file.split("/")[1]
            found[file] = split.read(i)
    assert found.keys() == tiles.keys()
    assert all(np.array_equal(found[file], tiles[file]) for file in tiles)
    assert beton.write(source, tmp_path / "out").sizes == {"train": 24, "test": 8}  # read by several threads at once


def test_another_side(folder):
    assert sheets(folder[0], 16).splits["train"].read(3).shape == (16, 16, 3)


def test_sheets_that_are_not_there_are_left_out_and_said(folder, tmp_path, capsys):
    """And with them their classes, of which no test image is kept."""
    (folder[0] / "train" / "02.webp").unlink()
    assert main(["sheets", str(tmp_path / "out"), "--from", str(folder[0])]) == 0
    said = capsys.readouterr().err
    assert f"warning: {folder[0] / 'train'}: left out 1 sheets that are not here, 02 first" in said
    assert f"warning: {folder[0] / 'test'}: left out 1 classes that train/ does not have" in said
    dataset = beton.open_dataset(tmp_path / "out")
    assert (dataset.classes, dataset.sizes) == (("bird", "cat"), {"train": 16, "test": 6})


def test_mistakes_are_named(folder, tmp_path):
    place, _ = folder
    index = place / "train" / "index.csv"
    whole = index.read_text()
    with pytest.raises(ConfigError, match="--from DIR"):
        sheets(None, None)
    with pytest.raises(DataError, match=r"train/index\.csv: No such file or directory"):
        sheets(tmp_path, None)
    for text, said in (
        ("sheet,cell\n00,0\n", "no column 'class'; the first line names sheet, cell"),
        ("\x00\xff", "index.csv: "),
        ("sheet,cell,class,file\n00,zero,cat,a.png\n", "line 2 has no class, no file, or no number as its cell"),
        ("sheet,cell,class,file\n00\n", "line 2 has 1 fields, but the header has 4"),
        ("sheet,cell,class,file\n77,0,cat,a.png\n", "none of the sheets that index.csv names is here"),
        ("sheet,cell,class,file\n00,0,cat,a.png\n", "images of 1 classes, but at least 2 are needed"),
        ("sheet,cell,class,file\n00,0,ant,a.png\n00,1,bee,b.png\n", "no image of a class of train/"),
    ):
        index.write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=said):
            sheets(place, None)
    index.write_text(whole.replace("01,7,", "01,8,"))
    with pytest.raises(UnreadableImage, match="train/01: has 8 tiles, no tile 8"):
        sheets(place, None).splits["train"].read(15)
    (place / "train" / "00.webp").write_bytes(b"RIFF")
    with pytest.raises(UnreadableImage, match=r"00\.webp: unreadable sheet"):
        sheets(place, None).splits["train"].read(0)
