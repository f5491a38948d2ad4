import csv
import io
import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_rmd.data.datasets.digits import digits
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.labels.view import LabelView, noisy_view, openset_view
from dist_rmd.data.prepared.beton import write
from dist_rmd.distributed.processes import detect
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.evaluation._features import extract_all
from dist_rmd.evaluation._separation import Separation, separation
from dist_rmd.pipeline.command import main
from dist_rmd.reports.tsne import Panel, _drawn, _pair, draw, tsne
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs as a grid makes them, on the same labels: `ce` and `rmdnet`, and `all`, which has the networks of both."""
    out = tmp_path_factory.mktemp("out")
    data = small.prepare(out)
    for name, stages in (("rmdnet", "simsiam,rgrl"), ("ce", "classifier"), ("all", "simsiam,classifier,rgrl")):
        command = [*small.RECIPE, "simsiam.epochs=1", "task.epochs=1", "data.reader=memory", f"data.path={data}"]
        assert main([*command, f"out={out}", f"name={name}", f"stages=[{stages}]"]) == 0
    return out


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of them, whose folders a test may write to."""
    for name in ("rmdnet", "ce", "all"):
        shutil.copytree(trained / name, tmp_path / name)
    return tmp_path


def rows(run):
    with open(run / "figures" / "tsne.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid_of_runs_makes_one_picture_in_the_order_of_the_figures(runs):
    printed = tsne([runs / "rmdnet", runs / "ce"], points=20).splitlines()
    assert printed[0] == str(runs / "rmdnet" / "figures" / "tsne.png")
    assert (runs / "rmdnet" / "figures" / "tsne.png").read_bytes().startswith(b"\x89PNG")
    assert not (runs / "ce" / "figures").exists()
    assert printed[2] == "150 training images, 60 of them mislabelled; 10 nearest neighbours"
    found = rows(runs / "rmdnet")
    assert [(row["network"], row["run"], row["stage"]) for row in found] == [
        ("SimSiam", str(runs / "rmdnet"), "simsiam"),
        ("CE", str(runs / "ce"), "classifier"),
        ("CE+RMDNet (K=1)", str(runs / "rmdnet"), "rgrl"),
    ]
    assert [line.split(" | ")[0] for line in printed[6:]] == ["| SimSiam", "| CE", "| CE+RMDNet (K=1)"]
    for row, line in zip(found, printed[6:], strict=True):
        assert line.split(" | ")[2] == f"{float(row['auroc']):.3f}"
        assert line.endswith(f"{100 * float(row['true_mislabelled']):.1f} % |")


def test_the_numbers_are_those_of_all_images_in_the_full_dimension(runs):
    tsne([runs / "all"], classes="0,1", points=5)
    run, world = FinishedRun(runs / "all"), detect("cpu")
    dataset = run.dataset()
    loader = run.source(dataset, world).evaluation("train", run.labels)
    true = dict(zip(run.labels.indices.tolist(), run.labels.true.tolist(), strict=True))
    for row in rows(runs / "all"):
        encoder = run.network(row["stage"], dataset, world.device).get_submodule("encoder")
        features, given, indices = extract_all(encoder, loader)
        expected = separation(features, given, torch.tensor([true[i] for i in indices.tolist()]))
        for name in ("auroc", "given_clean", "given_mislabelled", "true_clean", "true_mislabelled"):
            assert float(row[name]) == pytest.approx(getattr(expected, name), rel=1e-9)


def test_tensorboard_gets_the_picture_the_table_and_the_numbers(runs):
    printed = tsne([runs / "all"], points=10)
    board = EventAccumulator(str(runs / "all" / "tb" / "figures"))
    board.Reload()
    assert board.Tags()["images"] == ["figures/tsne"]
    (text,) = board.Tensors("figures/tsne/text_summary")
    assert text.tensor_proto.string_val[0].decode() == printed.split("\n\n", 1)[1]
    assert f"{float(rows(runs / 'all')[1]['auroc']):.3f}" in printed
    assert board.Tags()["scalars"] == [], "numbers are in the table, not in charts of one point"


def test_a_network_that_runs_share_is_drawn_once(runs):
    tsne([runs / "ce", runs / "all", runs / "rmdnet"], points=10)
    assert [(row["network"], row["run"]) for row in rows(runs / "ce")] == [
        ("SimSiam", str(runs / "all")),
        ("CE", str(runs / "ce")),
        ("CE+RMDNet (K=1)", str(runs / "all")),
    ]


def test_networks_of_one_name_are_told_apart_by_their_runs(runs):
    """As two seeds would be: the same method on the same labels, but not the same network."""
    path = runs / "ce" / "classifier" / "artefact.pt"
    other = {**artefacts.load(path), "key": "0" * 16}
    artefacts.save(path, runs / "shared.pt", other)
    tsne([runs / "all", runs / "ce"], points=10)
    names = [row["network"] for row in rows(runs / "all")]
    assert names == ["SimSiam", f"CE [{runs / 'all'}]", f"CE [{runs / 'ce'}]", "CE+RMDNet (K=1)"]


def test_a_stage_that_is_not_finished_is_named(runs):
    (runs / "rmdnet" / "rgrl" / "artefact.pt").unlink()
    printed = tsne([runs / "ce", runs / "rmdnet"], points=10).splitlines()
    assert printed[-1] == f"Not drawn: rgrl of {runs / 'rmdnet'} is not finished."
    assert [row["network"] for row in rows(runs / "ce")] == ["SimSiam", "CE"]


def test_runs_on_other_labels_are_refused(runs):
    labels = FinishedRun(runs / "ce").labels
    other = noisy_view(labels.true, 10, "pairflip", 0.2, seed=3)
    other.save(runs / "ce" / "labels.npz")
    with pytest.raises(DataError) as caught:
        tsne([runs / "all", runs / "ce"])
    assert str(caught.value) == (
        f"{runs / 'ce'}: trained on other labels (150 images, kind=pairflip, rate=0.2, seed=3, "
        f"digest {other.digest[:8]}) than {runs / 'all'} (150 images, kind=symmetric, rate=0.4, seed=0, "
        f"digest {labels.digest[:8]}); draw them apart"
    )
    assert not (runs / "all" / "figures").exists()


def test_runs_on_other_images_are_refused(runs, trained):
    source = digits(None, None)
    write(replace(source, classes=("zero", *source.classes[1:])), runs / "renamed")
    config = runs / "ce" / "config.yaml"
    config.write_text(config.read_text().replace(str(trained / "digits"), str(runs / "renamed")))
    with pytest.raises(DataError) as caught:
        tsne([runs / "all", runs / "ce"])
    assert str(caught.value) == (
        f"{runs / 'ce'}: trained on other images ({runs / 'renamed'}) than {runs / 'all'} "
        f"({trained / 'digits'}); draw them apart"
    )


def test_labels_whose_truth_is_not_known(runs):
    labels = FinishedRun(runs / "ce").labels
    LabelView(labels.indices, labels.given, None, 10).save(runs / "ce" / "labels.npz")
    with pytest.raises(DataError, match="true labels are not known"):
        tsne([runs / "ce"])


def test_labels_without_a_mistake_have_no_auroc(runs):
    FinishedRun(runs / "ce").labels.clean().save(runs / "ce" / "labels.npz")
    printed = tsne([runs / "ce"], points=10)
    assert "150 training images, 0 of them mislabelled" in printed
    assert printed.endswith("No AUROC: it needs mislabelled and clean images in classes of two or more.")
    (row,) = rows(runs / "ce")
    assert (row["auroc"], row["given_mislabelled"], row["true_mislabelled"]) == ("", "", "")
    assert float(row["given_clean"]) == float(row["true_clean"]) > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": "8"}, "classes is '8', but must be two different ones, such as 8,9"),
        ({"classes": "1,2,3"}, "two different ones"),
        ({"classes": "4, 4"}, "two different ones"),
        ({"classes": "4,10"}, r"there is no class '10': choose from 0, 1, .*, 9, or 0\.\.9"),
        ({"classes": "zwei,3"}, "there is no class 'zwei': choose from 0, 1"),
        ({"points": 0}, "points is 0, but must be at least 1"),
    ],
)
def test_impossible_options(runs, options, words):
    with pytest.raises(ConfigError, match=words):
        tsne([runs / "ce"], **options)


def test_too_few_images_to_draw(runs):
    with pytest.raises(DataError, match="2 images are given as 3 or 4, too few to draw"):
        tsne([runs / "ce"], classes="3,4", points=1)


def test_a_collapsed_network_is_drawn_as_a_point(runs):
    """All features the same: t-SNE has nothing to lay out, and distances tell nothing."""
    path = runs / "ce" / "classifier" / "artefact.pt"
    artefact = artefacts.load(path)
    dead = {name: torch.zeros_like(value) for name, value in artefact["encoder"].items()}
    artefacts.save(path, runs / "shared.pt", {**artefact, "encoder": dead})
    tsne([runs / "ce"])
    (row,) = rows(runs / "ce")
    assert float(row["auroc"]) == 0.5


# Which classes, which points, and the picture by itself

NUMBERS = Separation(50_000, 10_000, 0.98765, 10, 0.7, 0.1, 1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "pair"), [(None, (9, 10)), ("cat,truck", (3, 9)), ("truck , 3", (9, 3)), ("0,10", (0, 10))]
)
def test_classes_are_named_or_numbered(text, pair):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck", "van"]
    assert _pair(text, names) == pair


def test_a_misspelt_class_gets_the_nearest_one():
    with pytest.raises(ConfigError, match=r"no class 'shipp': did you mean 'ship'\?"):
        _pair("shipp,truck", ("cat", "ship", "truck"))


def test_points_are_drawn_from_all_over_a_class():
    """Images sorted by class: the first ones given as class 1 are all wrong, and must not stand for the rest."""
    true = np.repeat(np.arange(3), 400)
    labels = noisy_view(true, 3, "symmetric", 0.4, 0)
    drawn = _drawn(labels, (1, 2), 100)
    assert np.bincount(drawn.given).tolist() == [0, 100, 100]
    assert (np.diff(drawn.indices) > 0).all()
    assert np.mean(drawn.given != drawn.true) == pytest.approx(labels.noise_rate, abs=0.03)
    np.testing.assert_array_equal(drawn.given, labels.given[drawn.indices])
    np.testing.assert_array_equal(drawn.true, true[drawn.indices])


def test_images_of_none_of_the_classes_are_drawn_as_mislabelled():
    labels = openset_view(np.append(np.arange(600) % 3, [OPEN] * 300), 3, 0.5, 0.5, 0)
    drawn = _drawn(labels, (1, 2), 1000)
    assert len(drawn) == (labels.given > 0).sum()
    assert drawn.counts["open"] == ((labels.given > 0) & (labels.true == OPEN)).sum() > 50
    for index, given, true in zip(drawn.indices, drawn.given, drawn.true, strict=True):
        (row,) = np.flatnonzero(labels.indices == index)
        assert (labels.given[row], labels.true[row]) == (given, true)


def test_a_class_with_fewer_images_gives_all_and_one_with_none_gives_none():
    labels = LabelView(np.array([5, 3, 8]), np.array([1, 1, 0]), np.array([1, 0, 0]), 3)
    drawn = _drawn(labels, (1, 2), 100)
    assert (drawn.indices.tolist(), drawn.given.tolist(), drawn.true.tolist()) == ([3, 5], [1, 1], [0, 1])


def picture(titles, classes=("airplane", "ship", "truck"), images=400):
    """`draw` of random places, a fifth of the labels wrong: (the figure, its labels)."""
    true = np.arange(images) % 3
    labels = noisy_view(true, 3, "symmetric", 0.2, 0)
    chosen = np.flatnonzero(labels.given > 0)
    drawn = LabelView(chosen, labels.given[chosen], labels.true[chosen], 3)
    places = np.random.default_rng(0).normal(size=(len(chosen), 2)).astype(np.float32)
    return draw({title: Panel(places, NUMBERS) for title in titles}, drawn, (1, 2), classes), drawn


def test_every_point_has_the_marks_of_its_kind():
    figure, drawn = picture(["SimSiam", "CE"])
    wrong = drawn.given != drawn.true
    for axis in figure.axes:
        kinds = [(label, which) for which in (~wrong, wrong) for label in (1, 2)]
        for points, (label, which) in zip(axis.collections, kinds, strict=True):
            assert len(points.get_offsets()) == (which & (drawn.given == label)).sum()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    counts = [(which & (drawn.given == label)).sum() for which in (~wrong, wrong) for label in (1, 2)]
    expected = ["“ship”, clean", "“truck”, clean", "“ship”, wrong", "“truck”, wrong"]
    assert names == [f"{name} ({count})" for name, count in zip(expected, counts, strict=True)]


def test_all_panels_look_alike():
    figure, _ = picture(["SimSiam", "CE", "CE+RMDNet (K=1)"])
    first, *others = (
        [(points.get_facecolor().tolist(), points.get_sizes().tolist()) for points in axis.collections]
        for axis in figure.axes
    )
    assert all(other == first for other in others)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_nothing_overlaps_nor_leaves_the_picture(count):
    long = "CE+RMDNet (K=0.1) [runs/rmdnet-cifar10/CE-symmetric-0.2-seed"
    classes = ("a", "an uncommonly long name of a class", "Supercalifragilisticexpialidocious")
    figure, _ = picture([f"{long}{number}]" for number in range(count)], classes)
    figure.savefig(io.BytesIO())  # lays it out
    figure.canvas.draw()
    drawn = [axis for axis in figure.axes if axis.axison]
    assert len(drawn) == count
    texts = [figure._suptitle, *(axis.title for axis in drawn), *(axis.texts[0] for axis in drawn)]
    boxes = [text.get_window_extent() for text in texts]
    boxes += [axis.patch.get_window_extent() for axis in drawn] + [figure.legends[0].get_window_extent()]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
