"""Results of a sweep: every planned run of the grid's cells, with its accuracy or the reason why there is none."""

import contextlib
import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dist_rmd.config import read_yaml
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.run.finished import FinishedRun, top1
from dist_rmd.run.folder import Exit
from dist_rmd.sweep import choice
from dist_rmd.sweep.record import record_path, value_at

STATUSES = ("finished", "diverged", "failed", "unfinished", "not begun")
"""diverged: its loss was not finite.  Of a run that was planned in several folders, the first of these counts."""


TEST, HELD_OUT = "test/top1", "val/top1"
"""tags of the accuracies that a sweep is read with"""
WRONG, RIGHT = "train/fitted_wrong", "train/fitted_right"
"""tags of the shares of wrong and of right given labels that the network predicts"""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one planned run: a cell with one seed."""

    folder: Path
    status: str
    """one of STATUSES"""
    reason: str = ""
    """reason in exit.json of a run that failed"""
    last: float = float("nan")
    """accuracy (percent) after the last epoch; this and all below of finished runs only"""
    best: float = float("nan")
    """highest accuracy of all epochs: the epoch is chosen by the same images"""
    best_epoch: int = 0
    held_out: float | None = None
    """accuracy on test images after the epoch that is best on held-out labels; None where no labels are held out, and
    where `last` and `best` are themselves of held-out labels"""
    seconds: float | None = None
    """wall time of the last stage's training steps; None where another run has trained it"""
    cpu_seconds: float | None = None
    """CPU time of rank 0 in these seconds; None also for runs of earlier versions"""
    fitted: Mapping[str, float] = field(default_factory=dict)
    """WRONG, RIGHT -> percent of these labels that are fitted in the last epoch, where the stage has measured it"""
    collapsed: bool = False
    """the network predicts one class for all test images"""
    forced: bool = False
    """resumed with --force under another configuration than it began with"""


@dataclass(frozen=True)
class Cell:
    """One cell of the grid, with the outcomes of its seeds."""

    coordinates: tuple[str, ...]
    """axis -> value, for every axis of the sweep"""
    changed: tuple[str, ...]
    """`key: grid's -> used` for what is not the grid's own recipe"""
    outcomes: Mapping[int, Outcome]
    """by seed"""

    @property
    def is_begun(self) -> bool:
        """Whether a run of this cell has been started."""
        return any(outcome.status != "not begun" for outcome in self.outcomes.values())

    @property
    def finished(self) -> dict[int, Outcome]:
        """The outcomes that have an accuracy, by seed."""
        return {seed: outcome for seed, outcome in self.outcomes.items() if outcome.status == "finished"}


@dataclass(frozen=True)
class Sweep:
    """All cells of a grid."""

    folders: tuple[Path, ...]
    grid: str
    title: str
    published: str | None
    """the paper whose numbers stand beside ours, and"""
    table: str | None
    """the number of the table there"""
    names: Mapping[str, str]
    """value of an axis -> what the paper calls it, where that is not the same"""
    axes: Mapping[str, tuple[str, ...]]
    """name -> values, in order of display"""
    compare: Mapping[str, str]
    """method -> the baseline that it is meant to improve on"""
    cells: Mapping[tuple[str, ...], Cell]
    tag: str = TEST
    """the accuracy in `cells`"""
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """axis -> values, where these are not all cells"""

    def only(self, chosen: Mapping[str, Sequence[str]]) -> "Sweep":
        """The cells at the chosen values of some axes.  Raises ConfigError for an axis or value that there is not."""
        choice.check(chosen, self.axes, self.grid)
        axes = {axis: tuple(values) for axis, values in choice.narrowed(self.axes, chosen).items()}
        cells = {at: c for at, c in self.cells.items() if choice.holds(chosen, dict(zip(axes, at, strict=True)))}
        if not cells:
            raise ConfigError(f"{self.grid}: there is no cell at {choice.in_words(chosen)}")
        return replace(self, axes=axes, cells=cells, chosen=chosen)

    def over(self, baseline: str, axis: str = "method") -> "Sweep":
        """The same cells, each compared with the cell of `baseline`.  Raises ConfigError if there is no such row."""
        choice.check({axis: [baseline]}, self.axes, self.grid)
        return replace(self, compare={row: baseline for row in self.axes[axis] if row != baseline})

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of all cells."""
        return [outcome for cell in self.cells.values() for outcome in cell.outcomes.values()]


def read(paths: Sequence[Path], tag: str = TEST) -> Sweep:
    """The sweep in the folders `paths`, or in those that these files and run folders lie in.

    tag: the accuracy to read, TEST or HELD_OUT.
    Folders of one grid, made on several machines, are pooled.  Raises DataError where there is no sweep, where the
    folders hold different grids or recipes, and where a run is finished in two of them.
    """
    folders = tuple(dict.fromkeys(_sweep_folder(path) for path in paths))
    plans = [_plan(folder) for folder in folders]
    first = plans[0]
    axes: dict[str, dict[str, None]] = {axis: {} for axis in first["axes"]}
    cells: dict[tuple[str, ...], Cell] = {}
    for folder, plan in zip(folders, plans, strict=True):
        if plan["grid"] != first["grid"] or list(plan["axes"]) != list(axes):
            raise DataError(
                f"{folders[0]} and {folder} hold different grids, {_named(first)} and {_named(plan)}: report them apart"
            )
        for axis, values in plan["axes"].items():
            axes[axis].update(dict.fromkeys(values))
        for planned in plan["cells"]:
            at = tuple(planned["coordinates"][axis] for axis in axes)
            new = Cell(at, tuple(planned["changed"]), {planned["seed"]: _outcome(folder, planned, tag)})
            cells[at] = _joined(cells[at], new) if at in cells else new
    return Sweep(
        folders, first["grid"], first["title"], first["published"], first["table"], first.get("names") or {},
        {axis: tuple(values) for axis, values in axes.items()}, first.get("compare") or {}, cells,
        tag,
    )  # fmt: skip


def _sweep_folder(path: Path) -> Path:
    for folder in (path, path.parent):
        if record_path(folder).exists():
            return folder
    raise DataError(f"{path}: no sweep here (no sweep.json): name the folder that dist-rmd sweep made, or its runs")


def _plan(folder: Path) -> dict[str, Any]:
    path = record_path(folder)
    try:
        plan = json.loads(path.read_text())
        missing = {"grid", "title", "published", "table", "axes", "cells"} - plan.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not readable ({error}): start the sweep again to have it written anew") from None
    if missing or not plan["cells"]:
        raise DataError(f"{path}: no {', '.join(sorted(missing)) or 'cells'} in it: start the sweep again")
    return plan


def _named(plan: Mapping[str, Any]) -> str:
    return f"{plan['grid']} ({' x '.join(plan['axes'])})"


def _joined(cell: Cell, new: Cell) -> Cell:
    """The runs of both.  A recipe that no run has begun with, such as one without the K found elsewhere, gives way."""
    if cell.is_begun and new.is_begun and cell.changed != new.changed:
        (one, recipe), (other, another) = (
            (next(iter(side.outcomes.values())).folder.parent, "; ".join(side.changed) or "the grid's own")
            for side in (cell, new)
        )
        raise DataError(
            f"{one} and {other} hold {' '.join(cell.coordinates)} under different recipes ({recipe} | {another}): "
            "report them apart"
        )
    outcomes = dict(cell.outcomes)
    for seed, outcome in new.outcomes.items():
        outcomes[seed] = _further(outcomes[seed], outcome) if seed in outcomes else outcome
    changed = new.changed if new.is_begun else cell.changed
    return Cell(cell.coordinates, changed, dict(sorted(outcomes.items())))


def _further(one: Outcome, other: Outcome) -> Outcome:
    """The outcome that got further, of two outcomes of the same run.  Raises DataError where both are finished."""
    if one.status == other.status == "finished":
        raise DataError(
            f"{one.folder} and {other.folder} are the same cell and seed, both finished: "
            "report the sweeps apart, or move one of the two runs away"
        )
    return min(one, other, key=lambda outcome: STATUSES.index(outcome.status))


def _outcome(sweep: Path, planned: Mapping[str, Any], tag: str) -> Outcome:
    folder = sweep / planned["run"]
    run = FinishedRun(folder)
    if not run.folder.config.exists():
        return Outcome(folder, "not begun")
    config = read_yaml(run.folder.config)  # a check of all of it takes 0.3 s
    if other := _other(config, planned):
        return Outcome(folder, "failed", f"its folder holds another run ({'; '.join(other)})")
    stage = config["stages"][-1]
    if not run.folder.finished(stage):
        return _without_result(folder, run.folder.read_exit())
    try:
        scores = run.scores(stage)
    except DataError as error:
        return Outcome(folder, "failed", str(error))
    measured = top1 if tag == TEST else operator.methodcaller("get", tag)
    curve = {record["epoch"]: value for record in scores if (value := measured(record)) is not None}
    if not curve:
        hint = "" if tag == TEST else " (data.holdout holds labels out)"
        raise DataError(f"{folder}: its last stage, {stage}, has not measured {tag}: no table can show it{hint}")
    shares = {which: run.by_epoch(stage, which) for which in (WRONG, RIGHT)}
    best = max(curve, key=lambda epoch: curve[epoch])
    chosen = max((record for record in scores if HELD_OUT in record), key=lambda record: record[HELD_OUT], default={})
    return Outcome(
        folder, "finished", "", curve[max(curve)], curve[best], best,
        held_out=top1(chosen) if tag == TEST else None, seconds=run.seconds(stage),
        cpu_seconds=run.seconds(stage, "perf/cpu_s"),
        fitted={which: 100 * share[max(curve)] for which, share in shares.items() if max(curve) in share},
        collapsed=scores[-1].get("test/predicted_classes") == 1, forced=stage in run.forced,
    )  # fmt: skip


def _other(config: Mapping[str, Any], planned: Mapping[str, Any]) -> list[str]:
    """`key is this, not that` for what a run's configuration has otherwise than the cell that it is to be a run of.

    Nothing is known of cells that earlier versions wrote down, and of keys that they did not have.
    """
    settings = {**planned.get("settings", {}), "seed": planned["seed"]}
    found = {key: value_at(config, key) for key in settings}
    return [
        f"{key} is {found[key]}, not {value}"
        for key, value in settings.items()
        if found[key] is not None and _plain(found[key]) != _plain(value)
    ]


def _plain(value: Any) -> str:
    """A value as JSON keeps it, in which keys are texts, to compare with one that YAML has kept.

    YAML keeps 0.00005 as 5.0e-05, which is read as a text.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    return json.dumps(value, sort_keys=True)


def _without_result(folder: Path, ended: Exit | None) -> Outcome:
    if ended is None or ended.status != "failed":  # None: it is running, or was killed
        return Outcome(folder, "unfinished")
    return Outcome(folder, "diverged" if ended.is_diverged else "failed", ended.reason)
