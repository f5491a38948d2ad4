"""What a run's network takes images for: of any kind, on any number of processes."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import forked, small

from dist_rmd.data.images.pictures import read_image
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.pipeline.runner import train
from dist_rmd.predict import Guess, main, table
from dist_rmd.run.finished import load_run
from dist_rmd.run.prediction import Normalised

COLUMNS = ["file", "class", "probability", "second", "second_probability", "problem"]
MODUL = (
    "noise.rate=0", "noise.kind=openset", "noise.rho1=0.5", "noise.rho2=0.5", "division.evidence=exp",
    "stages=[teacher,division,modul]", "data.skip=80", "teacher.per_class=80",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"), open_images=100)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """One of which the division and the student are of no interest: its teacher tells images of none of the classes."""
    words = [*small.RECIPE, *MODUL, "data.reader=memory", f"data.path={data}"]
    return train(None, *words, f"out={tmp_path_factory.mktemp('runs')}", "name=a")


@pytest.fixture(scope="module")
def pictures(data, tmp_path_factory):
    """Some of the test images as files, larger and of several kinds, and two that are none."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for number, pixels in enumerate(open_dataset(data).images("test")[:9]):
        name = ("{}.png", "{}.bmp", "more/{}.webp")[number % 3].format(number)
        Image.fromarray(pixels).resize((20 + number, 24)).convert("L" if number % 2 else "RGB").save(folder / name)
    (folder / "5a.png").write_text("no image")
    (folder / "more" / "=SUM(1).png").write_bytes((folder / "0.png").read_bytes())
    return folder


def predicted(*words, code=0):
    assert main([str(word) for word in words]) == code
    return words


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_table_has_every_image_and_the_terminal_a_short_one(run, pictures, capsys, tmp_path):
    out = tmp_path / "out.csv"
    predicted(run.path, pictures, "--out", out, "--batch-size", 4, "--device", "cpu")
    said = capsys.readouterr().out
    found = rows(out)
    files = [row["file"] for row in found]
    assert files == sorted(files)
    assert len(files) == 11
    sound = [row for row in found if not row["problem"]]
    (broken,) = (row for row in found if row["problem"])
    assert broken["file"] == f"{pictures}/5a.png"
    assert [broken[name] for name in ("class", "probability", "second", "open_set")] == [""] * 4
    expected = run.predict([row["file"] for row in sound])
    assert [row["class"] for row in sound] == expected.classes
    order = np.argsort(-expected.probabilities, axis=1)
    assert [row["second"] for row in sound] == [run.classes[label] for label in order[:, 1]]
    for column, place in (("probability", 0), ("second_probability", 1)):
        values = expected.probabilities[range(len(sound)), order[:, place]]
        np.testing.assert_allclose([float(row[column]) for row in sound], values, atol=2e-6)
    assert "modul (last epoch, 2), 10 classes; images resized and cropped to 8 x 8" in said
    assert f"1 of 11 images cannot be read:\n  {pictures}/5a.png: unreadable image" in said
    assert said.endswith(f"{out}\n")


def test_the_open_set_score_is_the_loss_of_the_teachers_own_label(run, pictures, tmp_path):
    """Eq. 2 written out in float64, with evidence exp."""
    predicted(run.path, pictures / "0.png", pictures / "1.bmp", "--out", tmp_path / "out.csv")
    normalised = Normalised(run.saved("teacher").origin, torch.device("cpu"))
    view = normalised(np.stack([read_image(pictures / name, 8) for name in ("0.png", "1.bmp")]))
    with torch.no_grad():
        logits = run.network("teacher")(view)[0].double().numpy()
    alpha = np.exp(np.clip(logits, -10, 10)) + 1
    total = alpha.sum(1, keepdims=True)
    p, y = alpha / total, np.eye(10)[logits.argmax(1)]
    loss = ((y - p) ** 2 + p * (1 - p) / (total + 1)).sum(1)
    found = [float(row["open_set"]) for row in rows(tmp_path / "out.csv")]
    np.testing.assert_allclose(found, loss, atol=2e-6)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_write_the_same_table(run, pictures, tmp_path, ranks):
    """5 batches of 11 images, one of them broken."""
    words = [run.path, pictures, "--batch-size", 2, "--device", "cpu", "--out"]
    predicted(*words, tmp_path / "one.csv")
    done = forked.ranks(ranks, "dist_rmd.predict", *map(str, words), str(tmp_path / "several.csv"))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("images resized") == 1
    assert (tmp_path / "several.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_lists_files_and_folders_name_each_image_once(run, pictures, tmp_path):
    (pictures / "list.txt").write_text("0.png\r\n\nmore/2.webp\ngone.png\n")
    (pictures / "list.csv").write_text("note,file\na,0.png\nb,1.bmp\n")
    predicted(run.path, pictures / "list.txt", pictures / "list.csv", pictures / "0.png", "--stage", "teacher")
    found = rows(run.folder.predictions)
    names = ["0.png", "more/2.webp", "gone.png", "1.bmp"]
    assert [row["file"] for row in found] == [str(pictures / name) for name in names]
    assert "No such file" in found[2]["problem"]
    (pictures / "list.txt").unlink()
    (pictures / "list.csv").unlink()


def test_what_a_spreadsheet_could_run_is_text():
    guesses = [Guess(Path("=cmd.png"), "", (0, 1), (0.9, 0.1)), Guess(Path("a\n.png"), "@x")]
    written = table(guesses, ["+a", "b"])
    assert list(csv.reader(written.splitlines()[:2])) == [
        COLUMNS, ["'=cmd.png", "'+a", "0.900000", "b", "0.100000", ""],
    ]  # fmt: skip
    assert written.endswith('"a\n.png",,,,,\'@x\n')


def test_the_network_of_the_best_epoch(run, pictures, capsys):
    predicted(run.path, pictures / "0.png", "--best")
    best = max(run.scores("modul"), key=lambda score: score["test/top1"])["epoch"]
    assert f"modul (best epoch, {best})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["{run}/..", "{pictures}"], 2, r"no run here (no config.yaml)"),
        (["{run}", "{pictures}/none"], 2, "none: no such file or folder"),
        (["{run}", "{empty}"], 65, "no image found"),
        (["{run}", "{pictures}/5a.png"], 65, "none of 1 images can be read"),
        (["{run}", "{pictures}", "--stage", "rgrl"], 2, "stage rgrl is not of this run: choose from teacher, division"),
        (["{run}", "{pictures}", "--stage", "division"], 65, "no classifier in division"),
        (["{run}", "{pictures}", "--batch-size", "0"], 2, "--batch-size 0: at least 1"),
        (["{run}"], 2, "IMAGES"),
    ],
)
def test_a_mistake_is_one_line(run, pictures, tmp_path, capsys, words, code, line):
    places = {"run": run.path, "pictures": pictures, "empty": tmp_path}
    predicted(*(word.format(**places) for word in words), code=code)
    said = capsys.readouterr().err
    assert line in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_run_that_was_taken_along_alone_predicts_without_its_teacher(run, data, pictures, tmp_path, capsys):
    """What another run has taught it lies where it was started; the student needs nothing of that."""
    words = [*small.RECIPE, *MODUL[:5], "stages=[division,modul]", "data.reader=memory", f"data.path={data}"]
    train(None, *words, f"inputs.teacher={run.path}", f"out={tmp_path}", "name=b", "student.epochs=1")
    (tmp_path / "b").rename(tmp_path / "c")
    text = (tmp_path / "c" / "config.yaml").read_text()
    (tmp_path / "c" / "config.yaml").write_text(text.replace(str(run.path), str(tmp_path / "gone")))
    with pytest.warns(UserWarning, match="its teacher is not here, so no image gets an open-set score"):
        predicted(tmp_path / "c", pictures / "0.png")
    assert list(rows(load_run(tmp_path / "c").folder.predictions)[0]) == COLUMNS
