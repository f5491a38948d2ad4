"""Curves of memorisation over the epochs: test accuracy, and the fitted shares of wrong and right training labels."""

import csv
import io
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dist_rmd.errors import DataError
from dist_rmd.files import check_writable, write_atomically, write_text
from dist_rmd.reports import _typeset
from dist_rmd.reports.summary import measurable, measured, not_measured, spread
from dist_rmd.run.finished import FinishedRun, top1
from dist_rmd.run.folder import picture_path
from dist_rmd.sweep.comparison import Comparison, named
from dist_rmd.sweep.record import record_path
from dist_rmd.sweep.results import RIGHT, WRONG, read
from dist_rmd.text.escapes import prepare_drawing

__all__ = ["curves"]

ACCURACY = "test/top1"
TITLES = {
    ACCURACY: "Test accuracy (%)",
    WRONG: "Wrong training labels fitted (%)",
    RIGHT: "Right training labels fitted (%)",
}
# Okabe and Ito's colours, which colour-blind readers can tell apart; styles tell lines apart without any colour.
COLOURS = ("#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
STYLES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))

Curve = Mapping[int, float]
"""epoch -> percent"""


class Line(NamedTuple):
    """A line of the picture: the seeds of one method on the same data and noise."""

    group: str
    """data and noise: lines of the same group are in the same panels"""
    method: str


class Seed(NamedTuple):
    """One trained network's curves."""

    run: Path
    curves: Mapping[str, Curve]
    """tag -> curve; without fitted labels where the true labels are unknown or another run trained the network"""


def curves(runs: Sequence[Path]) -> str:
    """Test accuracy and fitted training labels over the epochs: a line for each method, mean and spread over seeds.

    runs: run folders, or sweep folders for all of their runs.

    A network that memorises fits wrong labels in the second half of its training, and its test accuracy falls.  Writes
    figures/curves.png and figures/curves.csv into the first folder; returns their paths and a table.
    """
    waiting: list[Path] = []
    if all(record_path(folder).exists() for folder in runs):
        lines = _of_sweep(runs)
    else:
        begun, waiting = measurable(runs)
        lines = _of_runs(begun)
    if not lines:
        raise DataError(f"{runs[0]}: no run here has measured {ACCURACY} yet")
    path = picture_path(runs[0], "curves")
    check_writable(path.parent)
    figure = draw(lines)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))
    write_text(path.with_suffix(".csv"), _csv(lines))
    left_out = [not_measured(waiting)] if waiting else []
    return "\n\n".join([_table(lines), *left_out, f"{path}\n{path.with_suffix('.csv')}"])


# The curves


def _of_sweep(folders: Sequence[Path]) -> dict[Line, list[Seed]]:
    """The curves of the last stages of a sweep's runs, finished or not, by the grid's names of methods."""
    sweep = read(folders)
    results, lines = Comparison(sweep), defaultdict(list)
    for cell in sweep.cells.values():
        values = results.values(cell)
        method = values[results.row_axis]
        group = ", ".join(named(axis, values[axis]) for axis in [*results.block_axes, *results.column_axes])
        for outcome in cell.outcomes.values():
            if outcome.status != "not begun" and (seed := _seed(outcome.folder)):
                lines[Line(group, method)].append(seed)
    return dict(lines)


def _of_runs(folders: Sequence[Path]) -> dict[Line, list[Seed]]:
    """The curves of the runs' stages; stages of the same recipe are the seeds of a line."""
    by_row = defaultdict(list)
    for network in measured(folders):
        if seed := _seed(network.run.path, network.stage):
            by_row[network.row].append(seed)
    names = [Line(f"{row.data}, {row.noise}", row.method) for row in by_row]
    return {
        line if names.count(line) == 1 else Line(line.group, f"{line.method} [{seeds[0].run.name}]"): seeds
        for line, seeds in zip(names, by_row.values(), strict=True)
    }


def _seed(folder: Path, stage: str | None = None) -> Seed | None:
    """The curves of a stage of a run (None: the last stage); None where the stage's accuracy was not measured."""
    run = FinishedRun(folder)
    stage = stage or run.config.stages[-1]
    scores = run.scores(stage)
    accuracy = {record["epoch"]: value for record in scores if (value := top1(record)) is not None}
    if not accuracy:
        return None
    found: dict[str, Curve] = {ACCURACY: accuracy}
    for tag in (WRONG, RIGHT):
        if shares := run.by_epoch(stage, tag):
            found[tag] = {epoch: 100 * share for epoch, share in shares.items()}
    return Seed(folder, found)


def _common(seeds: Sequence[Seed], tag: str) -> dict[int, list[float]]:
    """epoch -> the values of all seeds that have the tag, for the epochs at which each of these seeds has a value."""
    found = [seed.curves[tag] for seed in seeds if tag in seed.curves]
    epochs = sorted(set.intersection(*(set(curve) for curve in found))) if found else []
    return {epoch: [curve[epoch] for curve in found] for epoch in epochs}


# The picture


def draw(lines: Mapping[Line, Sequence[Seed]]) -> Figure:
    """Draw the curves: a row of panels for each group, a panel for each measured quantity."""
    tags = [tag for tag in TITLES if any(tag in seed.curves for seeds in lines.values() for seed in seeds)]
    groups, methods = (list(dict.fromkeys(names)) for names in zip(*lines, strict=True))
    prepare_drawing([*groups, *methods])
    looks = {m: (STYLES[n % len(STYLES)], COLOURS[n % len(COLOURS)]) for n, m in enumerate(methods)}
    figure, panels = plt.subplots(
        len(groups), len(tags), figsize=(4.3 * len(tags), 3.4 * len(groups) + 0.6), squeeze=False,
        sharey="col", layout="constrained",
    )  # fmt: skip
    for row, group in zip(panels, groups, strict=True):
        for axis, tag in zip(row, tags, strict=True):
            for method in methods:
                style, colour = looks[method]
                _line(axis, _common(lines.get(Line(group, method), ()), tag), style, colour)
            _dress(axis, TITLES[tag])
        if group:
            row[0].set_ylabel(textwrap.fill(group, 40))
    handles = [Line2D([], [], color=colour, linestyle=style, linewidth=2) for style, colour in looks.values()]
    figure.legend(handles, methods, loc="outside lower center", ncols=min(2 * len(tags), len(methods)), frameon=False)
    plt.close(figure)
    return figure


def _line(axis: Axes, values: Mapping[int, Sequence[float]], style: Any, colour: str) -> None:
    epochs, means = list(values), [statistics.mean(seeds) for seeds in values.values()]
    axis.plot(epochs, means, color=colour, linestyle=style, linewidth=1.8)
    if values and len(next(iter(values.values()))) > 1:
        spreads = [statistics.stdev(seeds) for seeds in values.values()]
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axis.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)


def _dress(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel("epoch")
    axis.set_xlim(left=0)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


# Numbers


def _table(lines: Mapping[Line, Sequence[Seed]]) -> str:
    """Markdown table, a row for each line: accuracy in the last and the best epoch, labels fitted in the last epoch."""
    rows = []
    for line, seeds in lines.items():
        accuracy = [seed.curves[ACCURACY] for seed in seeds]
        best = spread([max(curve.values()) for curve in accuracy])
        at = ", ".join(str(max(curve, key=lambda epoch: curve[epoch])) for curve in accuracy)
        ends = [
            spread([curve[max(curve)] for curve in of_seeds]) if of_seeds else "-"
            for of_seeds in (accuracy, *_fitted(seeds))
        ]
        rows.append((line.group, line.method, ends[0], f"{best} at epoch {at}", *ends[1:], str(len(seeds))))
    columns = ("last epoch", "best epoch (by test)", "wrong labels fitted", "right labels fitted", "seeds")
    return _typeset.markdown(_typeset.Table(("on", "method"), tuple((name,) for name in columns), (tuple(rows),)))


def _fitted(seeds: Sequence[Seed]) -> list[list[Curve]]:
    return [[seed.curves[tag] for seed in seeds if tag in seed.curves] for tag in (WRONG, RIGHT)]


def _csv(lines: Mapping[Line, Sequence[Seed]]) -> str:
    """CSV text: a row for each run and each epoch with a measurement."""
    text = io.StringIO()
    table = csv.DictWriter(text, ("on", "method", "run", "epoch", *TITLES), lineterminator="\n")
    table.writeheader()
    for line, seeds in lines.items():
        for seed in seeds:
            for epoch in sorted(set().union(*seed.curves.values())):
                values = {tag: f"{curve[epoch]:.4f}" for tag, curve in seed.curves.items() if epoch in curve}
                table.writerow({"on": line.group, "method": line.method, "run": seed.run, "epoch": epoch, **values})
    return text.getvalue()
