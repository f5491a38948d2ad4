import csv

import numpy as np
import pytest
from support import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_rmd import prepare, report
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.pipeline.command import main
from dist_rmd.run import artefacts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def train(data, out):
    """train(name, "key=value", ...) -> the folder of a short run, up to its end."""

    def train(name, *overrides, path=data):
        setting = ("data.reader=memory", f"data.path={path}", f"out={out}", f"name={name}", "data.per_class=40")
        assert main([*small.RECIPE, *setting, *overrides]) == 0
        return out / name

    return train


@pytest.fixture(scope="module")
def simsiam(train):
    return train("simsiam", "stages=[simsiam]", "simsiam.epochs=6", "simsiam.lr=0.2", "noise.kind=pairflip")


def rows(run):
    with open(run / "suspects.csv", newline="") as file:
        return list(csv.DictReader(file))


def printed(capsys, *words):
    capsys.readouterr()
    assert report.main(["suspects", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_a_run_of_simsiam_alone(simsiam, data, capsys):
    """400 labels, of which 160 are wrong: all are listed, and what is said of them is right."""
    text = printed(capsys, simsiam)
    assert text.startswith(f"{simsiam}: 400 labels, judged by features of simsiam (20 neighbours and 5 folds)\n")
    assert "Note" not in text
    view, table, names = LabelView.load(simsiam / "labels.npz"), rows(simsiam), open_dataset(data).files("train")
    assert {row["file"]: row["given"] for row in table} == {
        names[index]: str(label) for index, label in zip(view.indices, view.given, strict=True)
    }
    assert all(row["given"] != row["proposed"] for row in table)
    scores = [float(row["score"]) for row in table]
    assert scores == sorted(scores, reverse=True)
    true = {names[index]: str(label) for index, label in zip(view.indices, view.true, strict=True)}
    wrong = np.array([row["given"] != true[row["file"]] for row in table])
    assert (
        f"Truth: 160 labels are wrong, AUROC {auroc(wrong):.3f}; wrong are {100 * wrong[:50].mean():.1f} % of " in text
    )
    assert f"{100 * wrong[:160].mean():.1f} % of the top 160" in text
    right = np.mean([row["label"] == true[row["file"]] for row in table])
    assert f"{100 * right:.1f} % are right in column label" in text
    assert (simsiam / "figures" / "suspects.png").read_bytes().startswith(b"\x89PNG")
    board = EventAccumulator(str(simsiam / "tb" / "figures"))
    board.Reload()
    assert board.Tags()["images"] == ["figures/suspects"]
    assert f"<title>Suspect labels of {simsiam.parent.name}/simsiam</title>" in (simsiam / "suspects.html").read_text()


def auroc(wrong):
    """Share of the pairs of a wrong and a right label in which the wrong one stands first."""
    return np.mean(
        [np.mean(~wrong[place:]) * (~wrong[place:]).size / (~wrong).sum() for place in np.flatnonzero(wrong)]
    )


def test_the_table_is_trained_on_and_makes_a_dataset(simsiam, train, tmp_path, data, capsys):
    printed(capsys, simsiam)
    labels = {row["file"]: int(row["label"]) for row in rows(simsiam)}
    names = open_dataset(data).files("train")
    file = simsiam / "suspects.csv"
    run = train("cleaned", "stages=[classifier]", "noise.kind=file", "noise.rate=0", f"noise.file={file}")
    view = LabelView.load(run / "labels.npz")
    assert {names[i]: label for i, label in zip(view.indices.tolist(), view.given.tolist(), strict=True)} == labels
    assert prepare.main(["digits", str(tmp_path / "cleaned"), "--labels", str(file)]) == 0
    cleaned = open_dataset(tmp_path / "cleaned")
    assert dict(zip(cleaned.files("train"), cleaned.labels("train").tolist(), strict=True)) == labels
    assert not cleaned.verified
    assert "nobody knows which of them are right" in capsys.readouterr().out


def test_features_come_from_the_teacher_that_a_run_starts_from(simsiam, train, capsys):
    run = train("inputs", "stages=[rgrl]", f"inputs.simsiam={simsiam}", "noise.kind=pairflip")
    text = printed(capsys, run)
    assert "judged by features of simsiam" in text
    assert rows(run) == rows(simsiam)
    assert "judged by features of rgrl" in printed(capsys, run, "--stage", "rgrl")
    assert report.main(["suspects", str(run), "--stage", "teacher"]) == 2
    assert "stage teacher has no features here: choose from simsiam, rgrl" in capsys.readouterr().err


def test_features_that_were_fitted_to_the_labels_are_told(train, capsys):
    text = printed(capsys, train("alone", "stages=[classifier]"))
    assert "Note: the features of classifier were fitted to these labels" in text


def test_collected_labels_are_judged_without_any_truth(train, tmp_path, capsys):
    data = small.prepare(tmp_path, verified=False)
    run = train("collected", "stages=[simsiam]", "noise.rate=0", path=data)
    text = printed(capsys, run)
    assert "Truth" not in text
    assert "labels are expected to be wrong" in text
    assert len(rows(run)) == 400


def test_a_division_says_of_each_image_in_which_set_it_is(train, tmp_path, capsys):
    data = small.prepare(tmp_path, open_images=200)
    run = train(
        "divided", "stages=[teacher,division]", "noise.kind=openset", "noise.rate=0", "noise.rho1=0.4",
        "noise.rho2=0.5", path=data,
    )  # fmt: skip
    assert "judged by features of teacher" in printed(capsys, run)
    artefact, names = artefacts.load(run / "division" / "artefact.pt"), open_dataset(data).files("train")
    found = [("clean", "closed", "open")[which] for which in artefact["sets"].tolist()]
    assert {row["file"]: row["set"] for row in rows(run)} == {
        names[index]: which for index, which in zip(artefact["indices"].tolist(), found, strict=True)
    }


def test_the_page_may_show_fewer_images_than_there_are(simsiam, capsys):
    printed(capsys, simsiam)
    whole = (simsiam / "suspects.html").stat().st_size
    printed(capsys, simsiam, "--images", "20")
    assert (simsiam / "suspects.html").stat().st_size < whole
    assert len(rows(simsiam)) == 400


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--folds", "1"], "folds is 1, but must be 2 to 5, or 0 for none"), (["--images", "0"], "images is 0")],
)
def test_values_that_make_no_sense_are_refused(simsiam, options, reason, capsys):
    assert report.main(["suspects", str(simsiam), *options]) == 2
    assert reason in capsys.readouterr().err


def test_runs_without_features_and_folders_without_runs_are_refused(tmp_path, capsys):
    assert report.main(["suspects", str(tmp_path)]) == 2
    assert "no run here" in capsys.readouterr().err
