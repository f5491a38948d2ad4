"""What RMDNet gains over its baseline, against how good its teacher is."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dist_rmd.errors import DataError
from dist_rmd.files import check_writable, write_atomically
from dist_rmd.reports import _typeset
from dist_rmd.reports.summary import spread
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun
from dist_rmd.run.folder import picture_path
from dist_rmd.sweep.comparison import Comparison, named
from dist_rmd.sweep.results import Outcome, read
from dist_rmd.text.escapes import prepare_drawing

__all__ = ["gain"]


class Point(NamedTuple):
    """A cell that is compared with a baseline, with the seeds that both have finished."""

    sweep: str
    """title of the sweep"""
    cell: str
    """method and noise"""
    knn: float
    """test accuracy (percent) of the nearest neighbours in the teacher's features, mean over the seeds"""
    before: Sequence[Outcome]
    """of the baseline"""
    after: Sequence[Outcome]
    """of the method, with the same seeds"""

    @property
    def gains(self) -> list[float]:
        """Accuracy of the last epoch minus the baseline's, seed by seed."""
        return [after.last - before.last for before, after in zip(self.before, self.after, strict=True)]


def gain(runs: Sequence[Path]) -> str:
    """Gain over the baseline against the accuracy of the teacher's nearest neighbours, a point for each cell.

    runs: sweep folders, of different grids if wanted.

    Cells count whose grid compares them with a baseline, and whose runs have a teacher without labels, such as SimSiam.
    Writes figures/gain.png into the first folder; returns its path and a table.
    """
    points = sorted((point for folder in runs for point in _points(folder)), key=lambda point: point.knn)
    if not points:
        raise DataError(f"{runs[0]}: no cell here has finished beside its baseline, with a teacher whose kNN is known")
    path = picture_path(runs[0], "gain")
    check_writable(path.parent)
    figure = draw(points)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=150))
    return f"{_table(points)}\n\n{path}"


def _points(folder: Path) -> Iterator[Point]:
    sweep = read([folder])
    results = Comparison(sweep)
    for cell in sweep.cells.values():
        baseline = results.baseline(cell)
        seeds = [seed for seed in cell.finished if baseline and seed in baseline.finished]
        teachers = [_knn(cell.finished[seed].folder) for seed in seeds]
        known = [knn for knn in teachers if knn is not None]
        if baseline and known and len(known) == len(teachers):
            name = ", ".join(named(axis, value) for axis, value in results.values(cell).items())
            before, after = ([side.finished[seed] for seed in seeds] for side in (baseline, cell))
            yield Point(sweep.title, name, statistics.mean(known), before, after)


def _knn(folder: Path) -> float | None:
    """The last measured kNN accuracy of a run's teacher; None where there is none."""
    run = FinishedRun(folder)
    paths = [run.artefact(stage) for stage in (*run.config.stages[:-1], *run.config.inputs)]
    last = [artefacts.load(path)["scores"][-1:] for path in paths if path.exists()]
    return next((value for scores in last for score in scores for tag, value in score.items() if "knn" in tag), None)


def _table(points: Sequence[Point]) -> str:
    columns = ("kNN of the teacher", "baseline, best (by test)", "baseline, last", "method, last", "gain", "seeds")
    rows = tuple(
        (
            point.sweep,
            point.cell,
            f"{point.knn:.2f}",
            spread([outcome.best for outcome in point.before]),
            spread([outcome.last for outcome in point.before]),
            spread([outcome.last for outcome in point.after]),
            ("+" if statistics.mean(point.gains) > 0 else "") + spread(point.gains),
            str(len(point.gains)),
        )
        for point in points
    )
    return _typeset.markdown(_typeset.Table(("sweep", "cell"), tuple((column,) for column in columns), (rows,)))


def draw(points: Sequence[Point]) -> Figure:
    """Gains over kNN accuracies, with error bars over seeds; a colour for each sweep."""
    sweeps = list(dict.fromkeys(point.sweep for point in points))
    prepare_drawing(sweeps)
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    axis.axhline(0, color="0.6", linewidth=0.8)
    for sweep in sweeps:
        of_sweep = [point for point in points if point.sweep == sweep]
        spreads = [statistics.stdev(point.gains) if len(point.gains) > 1 else 0.0 for point in of_sweep]
        means = [statistics.mean(point.gains) for point in of_sweep]
        knn = [point.knn for point in of_sweep]
        axis.errorbar(knn, means, spreads, fmt="o", capsize=2, linestyle="none", label=sweep)
    axis.set_xlabel("test accuracy of the teacher's nearest neighbours (%)")
    axis.set_ylabel("gain over the baseline, last epoch (points)")
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower center", frameon=False, ncols=1)
    plt.close(figure)
    return figure
