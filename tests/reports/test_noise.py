import itertools
import json

import numpy as np
import pytest
from support import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_rmd import report
from dist_rmd.config import sections
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.labels.view import TYPES, LabelView, noisy_view, openset_view
from dist_rmd.pipeline.command import main
from dist_rmd.reports.noise import draw
from dist_rmd.run import start
from dist_rmd.run.folder import RunFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(data, tmp_path):
    """train("key=value", ...) -> the folder of a short run of the baseline, up to its end."""

    def train(*overrides):
        command = [*small.RECIPE, "stages=[classifier]", "data.reader=memory", f"data.path={data}", f"out={tmp_path}"]
        assert main([*command, *overrides]) == 0
        return tmp_path / "run"

    return train


def test_a_run_under_pairflip(train, capsys):
    folder = train("noise.kind=pairflip")
    capsys.readouterr()
    assert report.main(["noise", str(folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{folder}: pairflip 0.4, seed 0; 40.00 % of 150 labels are wrong"
    assert printed[4] == "| 0 | 15 | 40.00 % | 1 (40.00 %) |"
    assert printed[13] == "| 9 | 15 | 40.00 % | 0 (40.00 %) |"
    assert printed[14:] == [str(folder / "figures" / "noise.png")]
    assert (folder / "figures" / "noise.png").read_bytes().startswith(b"\x89PNG")
    board = EventAccumulator(str(folder / "tb" / "figures"))
    board.Reload()
    assert board.Tags()["images"] == ["figures/noise"]


def test_a_run_with_open_set_noise(train, tmp_path, capsys):
    """Of 150 images 60 are noisy, half of them of none of the classes; labels.npz makes others train on the same."""
    data = small.prepare(tmp_path / "data", open_images=40)
    setting = ["noise.kind=openset", "noise.rate=0", "noise.rho1=0.4", "noise.rho2=0.5", f"data.path={data}"]
    folder = train(*setting)
    assert "150 images, 10 classes, 40.0 % wrong labels (20.0 % open set)" in capsys.readouterr().out
    view = LabelView.load(folder / "labels.npz")
    assert view.counts == {"clean": 90, "closed": 30, "open": 30}
    assert (view.indices[view.types == TYPES.index("open")] >= 1437).all()
    assert report.main(["noise", str(folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        f"{folder}: openset, rho1 = 0.4, rho2 = 0.5, seed 0; 40.00 % of 150 labels are wrong; "
        "20.00 % closed set, 20.00 % open set"
    )
    assert printed[14].startswith("| open set | 30 | 100.00 % | ")
    assert report.main(["summary", str(folder)]) == 0
    assert "| openset 0.4, 0.5 | test/top1 |" in capsys.readouterr().out
    keys = json.loads((folder / "exit.json").read_text())["keys"]
    train("noise.kind=file", f"noise.file={folder / 'labels.npz'}", f"data.path={data}", "name=again")
    assert json.loads((tmp_path / "again" / "exit.json").read_text())["keys"] == keys


def test_a_run_on_the_labels_of_a_csv(train, data, tmp_path, capsys):
    """200 images are listed, every fifth under the class after its own; the run trains on these and no others."""
    rows = [line.split(",") for line in (data / "train.csv").read_text().splitlines()[1:201]]
    lines = [f"{file},{(int(label) + (number % 5 == 0)) % 10}" for number, (_, label, _, file) in enumerate(rows)]
    (tmp_path / "mine.csv").write_text("\n".join(["file,checked", *reversed(lines)]))
    folder = train(
        "noise.kind=file", f"noise.file={tmp_path / 'mine.csv'}", "noise.column=checked", "data.per_class=null",
    )  # fmt: skip
    assert "200 images, 10 classes, 20.0 % wrong labels" in capsys.readouterr().out
    assert json.loads((folder / "exit.json").read_text())["code"] == 0
    view = LabelView.load(folder / "labels.npz")
    assert view.indices.tolist() == list(range(200))
    np.testing.assert_array_equal(view.given != view.true, np.arange(200) % 5 == 0)
    assert report.main(["noise", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{folder}: mine.csv, column checked; 20.00 % of 200 labels are wrong\n")


@pytest.fixture
def run(data, tmp_path):
    """run(view) -> a run folder that has got as far as its labels."""

    def run(view):
        start.describe(RunFolder(tmp_path), sections.parse(None, [f"data.path={data}"]), world=1, device="cpu")
        view.save(tmp_path / "labels.npz")
        return tmp_path

    return run


def test_labels_whose_truth_is_not_known(run, capsys):
    folder = run(LabelView(np.arange(3), np.arange(3), None, 10))
    assert report.main(["noise", str(folder)]) == 65
    assert capsys.readouterr().err == (
        f"error: {folder}: the true labels are not known, so neither are the noise rates\n"
    )


def test_classes_that_keep_their_labels_and_classes_without_images(run, capsys):
    true = np.repeat(np.arange(9), 10)
    folder = run(noisy_view(true, 10, "asymmetric", 0.5, 4, class_map={3: 5}, exact=False))
    assert report.main(["noise", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "asymmetric 0.5, each label by itself, seed 4; " in printed
    assert "| 0 | 10 | 0.00 % | - |" in printed
    assert "| 9 | 0 | 0.00 % | - |" in printed


@pytest.mark.parametrize(
    ("origin", "title"),
    [
        ({}, "labels of unrecorded origin"),
        ({"kind": "file", "file": "a.npy", "column": None}, "a.npy"),
        ({"kind": "symmetric", "rate": 0.2, "seed": 3, "exact": True, "include_true": True, "class_map": None},
         "symmetric 0.2, true class included, seed 3"),
        ({"kind": "instance", "rate": 0.4, "seed": 3, "exact": False}, "instance 0.4, each label by itself, seed 3"),
        ({"kind": "openset", "rho1": 0.5, "rho2": 0.25, "seed": 3, "include_true": True, "keep_label": True},
         "openset, rho1 = 0.5, rho2 = 0.25, true class included, labels of the replaced images, seed 3"),
    ],
)  # fmt: skip
def test_the_picture_says_what_it_shows(origin, title):
    view = LabelView(np.arange(4), np.array([0, 0, 0, 1]), np.array([0, 0, 0, 0]), 2, origin)
    (axis, *_) = draw(view, ("a", "b")).axes
    assert axis.get_title() == f"{title}\n25.0 % of 4 labels wrong"
    assert [text.get_text() for text in axis.texts] == ["75", "25", "", ""]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]


def test_images_of_none_of_the_classes_have_the_last_row():
    view = openset_view([0, 1, 2] * 40 + [OPEN] * 60, 3, 0.5, 0.5, seed=2)
    (axis, *_) = draw(view, ("a", "b", "c")).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c", "open set"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["a", "b", "c"]
    counts = np.array([((view.true == OPEN) & (view.given == label)).sum() for label in range(3)])
    np.testing.assert_allclose(axis.images[0].get_array()[3], 100 * counts / 30)
    assert axis.get_title() == (
        "openset, rho1 = 0.5, rho2 = 0.5, seed 2\n50.0 % of 120 labels wrong\n25.0 % closed set, 25.0 % open set"
    )


def test_the_picture_of_many_classes_has_names_but_no_numbers():
    names = [f"class {number}" for number in range(100)]
    figure = draw(noisy_view(np.arange(1000) % 100, 100, "symmetric", 0.4, 0), names)
    axis = figure.axes[0]
    assert not axis.texts
    assert [label.get_text() for label in axis.get_xticklabels()] == names
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert all(not one.overlaps(other) for one, other in itertools.pairwise(boxes))
    np.testing.assert_allclose(axis.images[0].get_array().diagonal(), 60)


def test_the_picture_of_a_thousand_classes_is_no_larger_and_readable():
    names = tuple(f"class {number:03d} of a name that is too long to be read" for number in range(1000))
    view = noisy_view(np.arange(3000) % 1000, 1000, "symmetric", 0.4, 0)
    figure = draw(view, names)
    axis = figure.axes[0]
    shown = [label.get_text() for label in axis.get_yticklabels()]
    assert len(shown) == 100
    assert shown[:2] == ["class 000 of a name that is t…", "class 010 of a name that is t…"]
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert all(not one.overlaps(other) for one, other in itertools.pairwise(boxes))
    assert axis.images[0].get_array().shape == (1000, 1000)
    hundred = draw(noisy_view(np.arange(200) % 100, 100, "symmetric", 0.4, 0), names[:100])
    assert (figure.get_size_inches() == hundred.get_size_inches()).all()
    assert axis.get_window_extent().width > 0.6 * figure.get_size_inches()[0] * figure.dpi
