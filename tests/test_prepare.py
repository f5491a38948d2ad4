import os
import runpy
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from dist_rmd import prepare
from dist_rmd.data.prepared import beton
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.registry import available


@pytest.fixture
def pets(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(count):
                path = tmp_path / "pets" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return tmp_path / "pets"


def run(capsys, *argv):
    """Exit code, stdout lines, stderr lines."""
    code = prepare.main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_digits_need_nothing_else(tmp_path, capsys):
    code, out, err = run(capsys, "digits", tmp_path / "digits")
    assert (code, err) == (0, [])
    assert out[:3] == [
        "digits: 8 x 8 pixels, 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)",
        "train: 1437 images, 0 skipped",
        "test: 360 images, 0 skipped",
    ]
    assert out[3] == "mean: 0.3057 0.3057 0.3057"
    assert out[-1].endswith(f"train with data.path={tmp_path / 'digits'}")
    assert open_dataset(tmp_path / "digits").sizes == {"train": 1437, "test": 360}


def test_ones_own_folder_with_a_bad_image(pets, tmp_path, capsys):
    (pets / "train" / "dog" / "2.png").write_bytes(b"no image")
    (pets / "test" / "dog" / "notes.txt").touch()
    out = tmp_path / "out"
    code, shown, err = run(capsys, "folder", out, "--from", pets, "--side", 24)
    assert (code, shown) == (65, [])
    assert [line.split(":")[0] for line in err] == ["warning", "error"]
    assert f"{pets}/train/dog/2.png: unreadable image" in err[1]
    assert list(out.iterdir()) == []

    code, shown, err = run(capsys, "folder", out, "--from", pets, "--side", 24, "--skip-bad")
    assert code == 0
    assert shown[0] == "folder: 24 x 24 pixels, 2 classes (cat, dog)"
    assert shown[1] == "train: 11 images, 1 skipped"
    assert open_dataset(out).skipped == {"train": ["train/dog/2.png"], "test": []}


def test_images_as_they_lie_with_nothing_said(pets, tmp_path, capsys):
    """<class>/* alone: a tenth of every class, one image at least, stands for a test, and nobody vouches for it."""
    code, shown, err = run(capsys, "folder", tmp_path / "out", "--from", pets / "train")
    assert (code, err) == (0, [])
    assert shown[1:5] == [
        "train: 10 images, 0 skipped",
        "test: 2 images, 0 skipped",
        "test: DIR has no test images; a tenth of every class is held out, under its given labels",
        "train: the labels are as given; nobody knows which of them are right",
    ]
    dataset = open_dataset(tmp_path / "out")
    assert (dataset.verified, dataset.held_out) == (False, True)


def test_pictures_that_are_almost_the_same_are_told(pets, tmp_path, capsys):
    """A train image saved again among the test images, and one under the other class."""
    rng = np.random.default_rng(1)
    for name, other in (("cat/0", "train/dog/again"), ("dog/0", "test/cat/again")):
        grid = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        grid.save(pets / "train" / f"{name}.png")
        grid.resize((48, 48)).save(pets / f"{other}.jpg", quality=92)
    code, _, err = run(capsys, "folder", tmp_path / "out", "--from", pets)
    assert code == 0
    assert sorted(line.split(" are the same")[0] for line in err) == [
        "warning: 1 pairs of a train and a test image",
        "warning: 1 pairs of two train images under different labels",
    ]
    assert any("train/cat/0.png and train/dog/again.jpg first" in line for line in err)


def test_a_read_that_never_returns_ends_on_a_signal(pets, tmp_path):
    """As on a server of files that has gone; here a pipe takes an image's place while the images are read."""
    script = (
        "import os, sys; from pathlib import Path; from dist_rmd.data.images import pictures\n"
        "pictures._decoded = lambda path, *_: open(os.environ['PIPE']).read()\n"
        "sys.argv[0] = 'prepare'; import runpy; runpy.run_module('dist_rmd.prepare', run_name='__main__')"
    )
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", script, "folder", tmp_path / "out", "--from", pets]
    with subprocess.Popen(command, env={**os.environ, "PIPE": str(tmp_path / "pipe")}) as process:
        for _ in range(600):
            if (tmp_path / "out").exists():
                break
            time.sleep(0.05)
        time.sleep(0.3)
        process.terminate()
        assert process.wait(10) == 143
    assert list((tmp_path / "out").iterdir()) == []


def test_a_pipe_named_as_an_image_is_refused_or_skipped(pets, tmp_path, capsys):
    os.mkfifo(pets / "train" / "cat" / "zz.jpg")
    code, _, err = run(capsys, "folder", tmp_path / "out", "--from", pets)
    assert (code, len(err)) == (65, 1)
    assert "zz.jpg: unreadable image (it is no file)" in err[0]
    assert run(capsys, "folder", tmp_path / "out", "--from", pets, "--skip-bad")[1][1] == "train: 12 images, 1 skipped"


def test_images_above_the_limit_are_refused_until_it_is_raised(pets, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    words = ["folder", tmp_path / "out", "--from", pets, "--max-megapixels"]
    code, _, err = run(capsys, *words, "0.0015")
    assert code == 65
    assert "--max-megapixels allows larger ones" in err[-1]
    assert run(capsys, *words, "0")[2] == ["error: --max-megapixels 0 allows no image"]
    assert run(capsys, *words, "0.004")[0] == 0


def test_a_finished_dataset_is_not_replaced_unasked(pets, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(capsys, "folder", out, "--from", pets)[0] == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, _, err = run(capsys, "folder", out, "--from", pets, "--side", 16)
    assert code == 73
    assert err == [f"error: {out}: holds a prepared dataset already; choose another OUT, or --overwrite it"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run(capsys, "folder", out, "--from", pets, "--side", 16, "--overwrite")[0] == 0
    assert open_dataset(out).side == 16


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["cifr10", "OUT"], 2, "did you mean 'cifar10'?"),
        (["digits"], 2, "required: OUT"),
        (["digits", "OUT", "--sied", "8"], 2, "--sied: there is no such option; did you mean --side?"),
        (["digits", "OUT", "--side", "big"], 2, "argument --side: invalid int value: 'big'"),
        (["digits", "OUT", "--side", "3"], 2, "--side 3 is outside 4..1024"),
        (["digits", "OUT", "--from", "OUT"], 2, "leave out --from"),
        (["folder", "OUT"], 2, "--from DIR"),
        (["folder", "OUT", "--from", "OUT"], 65, "OUT: no such folder"),
        (["digits", "file"], 73, "file: cannot be created"),
        (["digits", "OUT", "--exclude", "file"], 2, "--exclude file is for --open DIR"),
        (["digits", "OUT", "--open", "OUT"], 65, "OUT: no such folder"),
        (["digits", "OUT", "--open", ".", "--exclude", "file"], 65, "file: lists no folder to leave out"),
        (["digits", "OUT", "--open", ".", "--unverified"], 2, "only verified labels"),
        (["digits", "OUT", "--synsets", "file"], 2, "unrecognized arguments: --synsets file"),
        (["webvision", "OUT", "--from", ".", "--synsets", "gone.txt"], 65, "synsets.txt: No such file"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, argv, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    got, out, err = run(capsys, *argv)
    assert (got, out, len(err)) == (code, [], 1)
    assert err[0].startswith("error: ")
    assert message in err[0]
    assert not (tmp_path / "OUT").exists()


def test_help_names_every_dataset_and_exit_code(capsys):
    with pytest.raises(SystemExit) as raised:
        prepare.main(["--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    options = ["--from DIR", "--side S", "--open DIR", "--exclude FILE", "--unverified", "--skip-bad", "--overwrite"]
    for word in [*available("data.datasets"), *options, "65", "73", "74"]:
        assert word in text


def test_help_of_a_dataset_lists_its_own_options(capsys):
    with pytest.raises(SystemExit):
        prepare.main(["webvision", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--synsets SYNSETS text with the WordNet ids of the classes to take" in text
    assert "--engines ENGINES" in text


def test_images_of_none_of_the_classes(pets, tmp_path, capsys):
    for name, content in {"n01/a.png": True, "n01/b.png": False, "n02/c.png": True}.items():
        (tmp_path / "web" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "web" / name).write_bytes((pets / "train" / "cat" / "0.png").read_bytes() if content else b"")
    (tmp_path / "list.txt").write_text("n02  # cats\n")
    words = ["folder", tmp_path / "out", "--from", pets, "--open", tmp_path / "web"]
    code, _, err = run(capsys, *words)
    assert (code, len(err)) == (65, 1)
    assert "n01/b.png: unreadable image" in err[0]
    code, shown, err = run(capsys, *words, "--exclude", tmp_path / "list.txt", "--skip-bad")
    assert (code, err) == (0, [])
    assert shown[1:4] == [
        "train: 12 images, 1 skipped",
        "test: 6 images, 0 skipped",
        "open set: 1 images show none of the classes; 1 folders are left out",
    ]
    dataset = open_dataset(tmp_path / "out")
    assert (dataset.open_images, dataset.excluded, dataset.verified) == (1, ("n02",), True)
    assert dataset.skipped["train"] == ["open/n01/b.png"]


def test_labels_that_nobody_has_verified(pets, tmp_path, capsys):
    code, shown, _ = run(capsys, "folder", tmp_path / "out", "--from", pets, "--unverified")
    assert code == 0
    assert "train: the labels are as given; nobody knows which of them are right" in shown
    assert not open_dataset(tmp_path / "out").verified


def test_a_terminated_job_leaves_nothing_behind(tmp_path, monkeypatch):
    """SIGTERM arrives while the first beton is being written."""
    seen = []

    def write_beton(path, *_):
        path.write_bytes(b"half")
        seen.append(path)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(beton, "_write_beton", write_beton)
    monkeypatch.setattr(sys, "argv", ["prepare", "digits", str(tmp_path / "out")])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.warns(RuntimeWarning, match="sys.modules"), pytest.raises(SystemExit) as raised:
            runpy.run_module("dist_rmd.prepare", run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert raised.value.code == 143
    assert seen[0].parent.parent == tmp_path / "out"
    assert list((tmp_path / "out").iterdir()) == []
