import io
import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text
from support import small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_rmd import report
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.memory_reader import MemoryReader
from dist_rmd.distill.division import quality
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.pipeline.command import main
from dist_rmd.reports.division import COLOURS, NAMES, Divided, _drawn, division, draw, draw_examples
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun


@pytest.fixture(scope="module")
def divided_once(tmp_path_factory):
    """A run that divided 300 images, with a teacher that has learnt little."""
    out = tmp_path_factory.mktemp("out")
    data = small.prepare(out, open_images=100)
    command = [*small.RECIPE, "stages=[teacher,division]", "data.reader=memory", f"data.path={data}", f"out={out}"]
    command += ["data.per_class=30", "teacher.per_class=30", "teacher.epochs=4", "teacher.eval_every=4"]
    command += ["noise.kind=openset", "noise.rate=0", "noise.rho1=0.5", "noise.rho2=0.5"]
    assert main([*command, "division.closed=0.85", "division.scaling=percentile"]) == 0
    return out / "run"


@pytest.fixture
def run(divided_once, tmp_path):
    """A copy, in whose division every kind of mistake is made: of sets in 30 %, of refined labels in 20 % of images."""
    folder = Path(shutil.copytree(divided_once, tmp_path / "run"))
    labels, generator = FinishedRun(folder).labels, np.random.default_rng(0)
    sets = np.where(generator.random(300) < 0.3, generator.integers(3, size=300), labels.types)
    mistaken = (labels.true == OPEN) | (generator.random(300) < 0.2)
    predicted = np.where(mistaken, generator.integers(10, size=300), labels.true)
    trained_on = np.where(sets == 1, predicted, labels.given)
    planted = {"sets": sets, "predicted": predicted, "labels": trained_on}
    rewrite(folder, **{name: torch.from_numpy(values) for name, values in planted.items()})
    return folder


def rewrite(run, **changes):
    """The run's division with other entries."""
    path = run / "division" / "artefact.pt"
    artefacts.save(path, run.parent / "other.pt", {**artefacts.load(path), **changes})


def hide_truth(run):
    labels = FinishedRun(run).labels
    LabelView(labels.indices, labels.given, None, labels.num_classes).save(run / "labels.npz")


def test_what_the_stage_leaves_is_reported(divided_once, capsys):
    assert report.main(["division", str(divided_once), "--examples", "4"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    (measured,) = artefacts.load(divided_once / "division" / "artefact.pt")["scores"]
    for number, name in enumerate(("clean", "closed", "open")):
        assert cells[2 + number][1] == f"{measured[f'division/{name}']:.0f}"
        precision = measured.get(f"division/precision_{name}")
        assert cells[2 + number][-1] == ("-" if precision is None else f"{precision:.1f} %")
        assert cells[6][2 + number] == f"{measured[f'division/recall_{name}']:.1f} %"


# Numbers


def percent(part, whole):
    return f"{100 * part / whole:.1f} %"


def test_the_table_is_the_division_beside_the_truth(run, capsys):
    assert report.main(["division", str(run)]) == 0
    printed = capsys.readouterr().out.splitlines()
    found, labels = artefacts.load(run / "division" / "artefact.pt"), FinishedRun(run).labels
    np.testing.assert_array_equal(found["indices"], labels.indices)
    sets, losses = found["sets"].numpy(), found["losses"].numpy()
    assert printed[0] == (
        f"{run}: 300 images; evidence relu, scaling percentile, thresholds 0.3 and 0.85, 20 components; "
        f"losses {losses.min():.3f} to {losses.max():.3f}"
    )
    counts = [[int(((labels.types == true) & (sets == which)).sum()) for true in range(3)] for which in range(3)]
    assert min(map(min, counts)) > 0  # or the test would see less than it seems to
    lines = [line for line in printed if line.startswith("|")]
    assert lines[0] == "| found | images | truly clean | truly closed set | truly open set | precision |"
    for which, line in enumerate(lines[2:5]):
        cells = " | ".join(map(str, counts[which]))
        right = percent(counts[which][which], sum(counts[which]))
        assert line == f"| {NAMES[which]} | {sum(counts[which])} | {cells} | {right} |"
    assert lines[5] == f"| all | 300 | 150 | 75 | 75 | {percent(sum(counts[i][i] for i in range(3)), 300)} |"
    recall = " | ".join(percent(counts[i][i], whole) for i, whole in enumerate((150, 75, 75)))
    assert lines[6] == f"| recall | | {recall} | |"
    closed, used = sets == 1, sets < 2
    predicted = found["predicted"].numpy()
    trained_on = np.where(closed, predicted, labels.given)
    right = [
        (int((predicted == labels.true)[closed].sum()), closed.sum()),
        (int((trained_on == labels.true)[used].sum()), used.sum()),
        (int((labels.given == labels.true)[used].sum()), used.sum()),
    ]
    refined, together, given = (f"{part} of {whole} ({percent(part, whole)})" for part, whole in right)
    assert (
        f"Right labels: {refined} of the closed set as refined, {together} of clean and closed set together, "
        + (f"{given} as given.")
        in printed
    )
    assert printed[-2:] == [str(run / "figures" / f"{name}.png") for name in ("division", "divided")]


def test_where_the_truth_is_not_known_there_are_counts_alone(run):
    hide_truth(run)
    printed = division([run]).splitlines()
    sizes = np.bincount(artefacts.load(run / "division" / "artefact.pt")["sets"], minlength=3)
    rows = [f"| {name} | {n} | {percent(n, 300)} |" for name, n in zip(NAMES, sizes, strict=True)]
    assert printed[2:7] == ["| found | images | share |", "|---|---|---|", *rows]
    assert printed[8] == "The true labels are not known, so nothing can be said of how right this is."
    assert "recall" not in "".join(printed)


def test_images_are_matched_by_their_positions(run):
    """A division of some of the run's images, as with labels held out, in an order of its own."""
    order = np.random.default_rng(0).permutation(300)[:200]
    whole = artefacts.load(run / "division" / "artefact.pt")
    names = ("indices", "given", "predicted", "sets", "labels", "losses", "scaled")
    rewrite(run, **{name: whole[name][order] for name in names})
    divided, labels = Divided.of(run), FinishedRun(run).labels
    np.testing.assert_array_equal(divided.true, labels.true[order])
    np.testing.assert_array_equal(divided.types, labels.types[order])
    measured = quality(whole["sets"][order], labels.types[order])
    assert f"| clean | {(divided.sets == 0).sum()} | {' | '.join(map(str, measured.confusion[:, 0]))} |" in division(
        [run]
    )


def test_what_went_less_smoothly_is_one_line(run):
    assert "Note" not in division([run])
    rewrite(run, undecided=12, underflows=3, narrow=2, converged=False)
    assert division([run]).splitlines()[1] == (
        "Note: 12 images undecided between sets; 3 of them so far from all components that their densities are zero; "
        "2 components as narrow as they may be, of (almost) equal losses; "
        "the mixture had not converged after its last iteration"
    )


def test_a_set_without_images_has_no_precision(run):
    found = artefacts.load(run / "division" / "artefact.pt")
    rewrite(run, sets=found["sets"].clamp(max=0), labels=found["given"])
    printed = division([run])
    assert "| closed set | 0 | 0 | 0 | 0 | - |" in printed
    assert "Right labels: 0 of 0 (-) of the closed set as refined, " in printed


def test_logits_that_were_scaled_are_told(run):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("logit_scale: 1.0", "logit_scale: 2.5"))
    assert "evidence relu of 2.5 x logits, " in division([run])


def test_both_pictures_are_files_and_in_tensorboard(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    pages = division([run, other], examples=3).split("\n\n")
    assert [page.partition(":")[0] for page in pages if ": 300 images" in page] == [str(run), str(other)]
    for folder in (run, other):
        for name in ("division", "divided"):
            assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        board = EventAccumulator(str(folder / "tb" / "figures"))
        board.Reload()
        assert board.Tags()["images"] == ["figures/division", "figures/divided"]


# Errors


def test_a_run_that_has_not_divided_anything(run, capsys):
    (run / "division" / "artefact.pt").unlink()
    assert report.main(["division", str(run)]) == 65
    expected = f"error: {run}: stage division is not finished; start the run's command again, it goes on\n"
    assert capsys.readouterr().err == expected
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("- teacher\n- division\n", "- teacher\n"))
    assert report.main(["division", str(run)]) == 65
    expected = f"error: {run}: a run without stage division; name one that has it, as with stages=[teacher,division]\n"
    assert capsys.readouterr().err == expected
    nothing = run / "nothing"
    nothing.mkdir()
    assert report.main(["division", str(nothing)]) == 2
    assert capsys.readouterr().err == f"error: {nothing}: no run here (no config.yaml)\n"


@pytest.mark.parametrize("change", ["another label", "fewer images"])
def test_labels_that_are_not_those_divided(run, change):
    labels = FinishedRun(run).labels
    if change == "another label":
        given = np.where(np.arange(300) == 7, (labels.given + 1) % 10, labels.given)
        LabelView(labels.indices, given, labels.true, 10).save(run / "labels.npz")
    else:
        LabelView(labels.indices[:299], labels.given[:299], labels.true[:299], 10).save(run / "labels.npz")
    with pytest.raises(DataError) as caught:
        division([run])
    assert str(caught.value) == (
        f"{run}/division/artefact.pt: a division of other images or labels than {run}/labels.npz has; train it anew"
    )


def test_no_examples(run):
    with pytest.raises(ConfigError, match="examples is 0, but must be at least 1"):
        division([run], examples=0)


# The losses


def test_the_histogram_is_of_the_true_types(run):
    divided = Divided.of(run)
    upper, _ = draw(divided).axes
    edges = np.linspace(0, 1, 21)
    drawn = {to_hex(patch.get_edgecolor()): patch.get_xy() for patch in upper.patches}
    assert list(drawn) == [colour.lower() for colour in COLOURS]
    for which, outline in enumerate(drawn.values()):
        counts, _ = np.histogram(divided.scaled[divided.types == which], edges)
        assert counts.sum() == (150, 75, 75)[which]
        for left, right, count in zip(edges, edges[1:], counts, strict=False):
            middle = (left + right) / 2
            (places,) = np.nonzero((outline[:-1, 0] < middle) & (outline[1:, 0] > middle))
            assert outline[places[0], 1] == max(count, outline[:, 1].min())
    names = [text.get_text() for text in upper.get_legend().get_texts()]
    assert names == ["clean (150)", "closed set (75)", "open set (75)"]


def test_the_histogram_of_an_unknown_truth_has_one_colour(run):
    hide_truth(run)
    upper, _ = draw(Divided.of(run)).axes
    assert upper.get_title() == "losses; what the images truly are is not known"
    assert len({patch.get_facecolor() for patch in upper.patches}) == 1
    assert sum(patch.get_height() for patch in upper.patches) == 300


def test_the_mixture_is_drawn_by_set_as_images_per_bin(run):
    divided = Divided.of(run)
    _, lower = draw(divided).axes
    mixture, curves = divided.mixture, lower.lines[0:6:2]
    for which, curve in enumerate(curves):
        x, y = curve.get_data()
        expected = sum(
            300 / 20 * w * np.exp(-((x - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
            for w, m, v, s in zip(mixture.weights, mixture.means, mixture.variances, mixture.set, strict=True)
            if s == which
        )
        np.testing.assert_allclose(y, expected, rtol=1e-9)
    means = np.concatenate([line.get_xdata() for line in lower.lines[1:6:2]])
    np.testing.assert_array_equal(np.sort(means), mixture.means)
    found = np.bincount(divided.sets)
    for text, name, count in zip(lower.get_legend().get_texts(), NAMES, found, strict=True):
        assert text.get_text().startswith(f"{name} ({count} found, ")


def test_both_panels_have_the_thresholds_on_one_axis(run):
    upper, lower = draw(Divided.of(run)).axes
    for axis in (upper, lower):
        assert [line.get_xdata() for line in axis.lines[-2:]] == [[0.3, 0.3], [0.85, 0.85]]
        assert axis.get_yscale() == "log"
    assert upper.get_xlim() == lower.get_xlim()
    assert upper.get_ylim() == lower.get_ylim()
    assert lower.get_xlabel() == "subjective-logic loss, scaled (percentile)"


def test_losses_that_are_not_scaled_all_have_room(run):
    rewrite(run, scaled=1.9 * artefacts.load(run / "division" / "artefact.pt")["scaled"], scaling="none")
    upper, lower = draw(Divided.of(run)).axes
    assert upper.get_xlim()[1] > 1.9
    assert lower.get_xlabel() == "subjective-logic loss"


def test_nothing_of_a_large_sets_picture_overlaps(run):
    """50,000 images, half of them in one spike."""
    divided = Divided.of(run)
    rows = np.resize(np.arange(300), 50_000)
    scaled = np.where(np.arange(50_000) % 2, 0, divided.scaled[rows])
    sets, types = divided.sets[rows], divided.types[rows]
    figure = draw(replace(divided, indices=rows, scaled=scaled, sets=sets, types=types))
    figure.savefig(io.BytesIO())  # lays it out
    upper, lower = figure.axes
    assert upper.get_ylim()[1] > 25_000
    boxes = [figure._suptitle.get_window_extent()]
    for axis in (upper, lower):
        boxes += [axis.title.get_window_extent(), axis.get_legend().get_window_extent()]
        boxes.append(axis.patch.get_window_extent())
    apart_and_inside(figure, boxes)


def apart_and_inside(figure, boxes):
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


# Examples


def pictures(figure):
    """The artists of all images, in the order drawn."""
    return figure.axes[0].images


def below(figure, image):
    """The texts under an image, from top to bottom."""
    left, right, bottom, _ = image.get_extent()
    texts = [text for text in figure.axes[0].texts if text.get_ha() == "center"]
    under = [text for text in texts if abs(text.get_position()[0] - (left + right) / 2) < 0.01]
    under = [text for text in under if 0 < text.get_position()[1] - bottom < 0.6]
    return [text.get_text() for text in sorted(under, key=lambda text: text.get_position()[1])]


def frames(figure):
    """Place (left, top) of an image -> (colour, line style) of its frame."""
    found = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    return {patch.get_xy(): (to_hex(patch.get_edgecolor()), patch.get_linestyle()) for patch in found}


def test_examples_are_the_images_with_their_labels_and_wrong_ones_are_marked(run):
    divided = Divided.of(run)
    figure = draw_examples(divided, 300)
    rows = [(which, row) for which in range(3) for row in _drawn(divided, which, 300)]
    assert len(rows) == 300 == len(pictures(figure))
    reader = MemoryReader(FinishedRun(run).dataset().beton("train"), torch.device("cpu"))
    ((images, _),) = reader.read([np.array([divided.indices[row] for _, row in rows])])
    framed, seen = frames(figure), set()
    for (which, row), drawn, image in zip(rows, pictures(figure), images, strict=True):
        assert divided.sets[row] == which
        np.testing.assert_array_equal(drawn.get_array(), image)
        assert drawn.get_interpolation() == "nearest"
        true = "none of them" if divided.true[row] == OPEN else str(divided.true[row])
        refined = [str(divided.predicted[row])] if which == 1 else []
        left, _, _, top = drawn.get_extent()
        frame = None
        if divided.types[row] != which:
            frame = (COLOURS[divided.types[row]].lower(), "-")
        elif which == 1 and divided.predicted[row] != divided.true[row]:
            frame = (COLOURS[1].lower(), "--")
        found = framed.get((left, top))
        assert (found and (found[0], "-" if found[1] in ("-", "solid") else "--")) == frame
        assert below(figure, drawn) == [str(divided.given[row]), *refined, f"✗ {true}" if frame else true]
        seen.add((which, frame))
    wrong = {(which, (COLOURS[true].lower(), "-")) for which in range(3) for true in range(3) if which != true}
    assert seen == {*wrong, (1, (COLOURS[1].lower(), "--")), (0, None), (1, None), (2, None)}


def test_examples_of_an_unknown_truth_claim_nothing(run):
    hide_truth(run)
    figure = draw_examples(Divided.of(run), 10)
    assert frames(figure) == {}
    assert [len(below(figure, image)) for image in pictures(figure)] == [1] * 10 + [2] * 10 + [1] * 10
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "the true labels are not known" in texts
    assert not any("✗" in text or text == "true" for text in texts)


def test_examples_are_drawn_evenly_and_always_the_same(run):
    divided = replace(Divided.of(run), sets=np.zeros(300, np.int64))
    drawn = _drawn(divided, 0, 60)
    np.testing.assert_array_equal(drawn, _drawn(divided, 0, 60))
    assert len(set(drawn.tolist())) == 60
    assert np.histogram(drawn, 3, (0, 300))[0].min() > 10
    assert _drawn(divided, 0, 1000).tolist() == list(range(300))
    assert _drawn(divided, 1, 10).tolist() == []


def test_a_set_without_images_says_so(run):
    divided = replace(Divided.of(run), sets=np.zeros(300, np.int64))
    figure = draw_examples(divided, 3)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "found clean: 3 of 300 images" in texts
    assert {"found closed set: no image", "found open set: no image"} <= set(texts)
    assert len(pictures(figure)) == 3


@pytest.mark.parametrize(
    ("name", "examples"),
    [("W" * 30, 10), ("European fire salamander, Salamandra salamandra", 13), (r"$\odd$", 1)],
)
def test_long_names_and_odd_ones_stay_below_their_image(run, name, examples):
    divided = replace(Divided.of(run), classes=tuple(f"{name} {number}" for number in range(10)))
    figure = draw_examples(divided, examples)
    figure.savefig(io.BytesIO())
    boxes = [text.get_window_extent() for text in figure.axes[0].findobj(Text) if text.get_text()]
    boxes += [image.get_window_extent() for image in pictures(figure)]
    apart_and_inside(figure, boxes)
    given = below(figure, pictures(figure)[0])[0]
    assert given.startswith(name[:5])
    assert given.endswith("…") or given == divided.classes[divided.given[_drawn(divided, 0, examples)[0]]]
