"""Runs of `train` that take as many epochs as fit into a time, and what came of them."""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dist_rmd.run.folder import RunFolder
from tools.bench_parts.tables import Row, Table, short
from tools.replicate_parts.step import CommandFailed, Work

UNKNOWN = 2
"""epochs where no speed could be measured: the machine is slow, or busy"""
FIRST = "first 50 steps after"
START = 20.0
"""seconds to the first steps, where no trial was needed"""
SPARE = 0.75
"""of the time after the start that is planned for training steps: the rest is for evaluations and checkpoints"""
EVALUATIONS = 5
TRIAL, TRIAL_SECONDS, TRIAL_SHARE = 3, 90.0, 0.5
"""points of the curve after which a trial knows its speed; what it may take at most, and of the step's time"""
FASTER = {
    "cuda": (("speed.compile=true", "speed.cuda_graphs=true"), ("speed.compile=true",), ()),
    "cpu": ((),),
}
"""what makes training faster, by device: the first that works"""
PER_LINE = 8

Metrics = list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One run of `train`, of a single stage that is trained."""

    title: str
    name: str
    stage: str
    section: str
    """which holds its `epochs`"""
    images: int
    """of an epoch"""
    score: str
    """what is measured on test images"""
    overrides: tuple[str, ...]
    faster: Sequence[tuple[str, ...]]

    def folder(self, work: Work) -> RunFolder:
        return RunFolder(work.folder / "runs" / self.name)

    def artefact(self, work: Work) -> Path:
        return self.folder(work).artefact(self.stage)


def epochs_that_fit(work: Work, run: Run, share: float = 1.0, rate: float | None = None, start: float = START) -> int:
    """How many epochs fit into `share` of what is left of the step's time; as planned, where an earlier call has begun.

    At `rate` images/s after `start` seconds, where that is known; else as a trial says.  Raises what Work.python
    raises.
    """
    if (begun := planned(work, run)) is not None:
        return begun
    if rate is None:
        rate, start = measured(work, run)
    if not rate:
        work.note(f"{run.title}: no step of a trial in its time; {UNKNOWN} epochs are tried.")
        return UNKNOWN
    return max(1, int(SPARE * (share * work.left() - start) * rate / run.images))


def planned(work: Work, run: Run) -> int | None:
    """The epochs that an earlier call has begun to train, if one has."""
    try:
        return int(yaml.safe_load(run.folder(work).config.read_text())[run.section]["epochs"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None


def train(work: Work, run: Run, epochs: int, limit: float | None = None) -> None:
    """Train, or go on, showing what the curve says as it grows.  Raises what Work.python raises.

    Where torch cannot compile, or cannot capture graphs, the run is started again without.
    """
    every = max(1, epochs // EVALUATIONS)
    settings = [f"{run.section}.epochs={epochs}", f"{run.section}.eval_every={every}", f"checkpoint.every={every}"]
    metrics = run.folder(work).metrics
    before, began, first = len(curve(metrics, run.stage)), 0.0, 0.0

    def look() -> bool:
        nonlocal first
        if not first and len(curve(metrics, run.stage)) > before:
            first = time.monotonic() - began
        show(work, run, epochs, first)
        return False

    for faster in run.faster:
        began = time.monotonic()
        try:
            _start(work, run, [*settings, *faster], limit, look)
            break
        except CommandFailed as error:
            if faster == run.faster[-1] or curve(metrics, run.stage):
                raise
            work.note(f"{run.title}: {' '.join(faster)} failed ({str(error).splitlines()[-1]}); trained without.")
    look()


def measured(work: Work, run: Run) -> tuple[float, float]:
    """Images/s of the run's first steps in a trial, which is thrown away, and seconds to them.

    0 images/s where it comes to none in its time.
    """
    trial = Run(**{**vars(run), "name": f"trial-{run.name}"})
    metrics = trial.folder(work).metrics

    def rates() -> list[float]:
        return [r["perf/images_per_s"] for r in curve(metrics, run.stage) if "perf/images_per_s" in r]

    settings = [f"{run.section}.epochs=1000", f"{run.section}.eval_every=1000", "log.every=3"]
    for faster in run.faster:
        shutil.rmtree(trial.folder(work).path, ignore_errors=True)
        limit = min(TRIAL_SECONDS, TRIAL_SHARE * work.left())
        began = time.monotonic()
        try:
            _start(work, trial, [*settings, *faster], limit, lambda: len(rates()) >= TRIAL, tell=False)
            break
        except CommandFailed:
            if faster == run.faster[-1]:
                raise
    found = rates()
    shutil.rmtree(trial.folder(work).path, ignore_errors=True)
    return max(found, default=0.0), time.monotonic() - began


def _start(
    work: Work,
    run: Run,
    settings: Sequence[str],
    limit: float | None,
    look: Callable[[], bool],
    tell: bool = True,
) -> None:
    work.python(
        "-m", "dist_rmd.train", *run.overrides, f"name={run.name}", f"out={work.folder / 'runs'}",
        f"device={work.device}", "data.reader=memory", *settings,
        limit=limit, look=look, tell=tell,
    )  # fmt: skip


def curve(metrics: Path, stage: str) -> Metrics:
    """The points of a stage in a run's metrics; a last line cut short is left out."""
    points: Metrics = []
    for line in metrics.read_text().splitlines() if metrics.exists() else ():
        try:
            points.append(json.loads(line))
        except ValueError:
            break
    return [point for point in points if point["stage"] == stage]


def scores(work: Work, run: Run) -> dict[int, float]:
    """Epoch -> what was measured on test images after it."""
    points = curve(run.folder(work).metrics, run.stage)
    return {point["epoch"]: point[run.score] for point in points if run.score in point}


def show(work: Work, run: Run, epochs: int, first: float = 0.0) -> None:
    """The run's row in the table of the step, and its curve; written only where there is news.

    first: seconds from the start to the first point of the curve, 50 steps, where known.
    """
    points = curve(run.folder(work).metrics, run.stage)
    found = {point["epoch"]: point[run.score] for point in points if run.score in point}
    rates = [point["perf/images_per_s"] for point in points if "perf/images_per_s" in point]
    if not rates:
        return
    done = max((point["epoch"] for point in points), default=0)
    facts = {"epochs": f"{min(done, epochs)} of {epochs}", "images/s": short(statistics.median(rates))}
    facts |= {FIRST: f"{first:.0f} s"} if first else {}
    if found:
        best = max(found, key=lambda epoch: found[epoch])
        facts |= {"last": f"{found[max(found)]:.2f}", "best": f"{found[best]:.2f} (epoch {best})"}
    _merge(work, measure(run.score), Row(run.title, facts=facts))
    if found:
        chosen = thinned(sorted(found))
        curves = {f"epoch {epoch}": f"{found[epoch]:.2f}" for epoch in chosen}
        _merge(work, f"By epoch, {run.score.removeprefix('test/')}", Row(run.title, facts=curves))


def measure(score: str) -> str:
    """The title of the table of what was measured."""
    return f"Test images, {score.removeprefix('test/')}, in per cent"


def thinned(epochs: Sequence[int]) -> list[int]:
    """Some of them, the last among them."""
    step = -(-len(epochs) // PER_LINE)
    return [*reversed(list(reversed(epochs))[::step])]


def _merge(work: Work, title: str, row: Row) -> None:
    """Put a row into a table that has one for each run."""
    tables = [table for table in work.entry.shown if table.title == title]
    rows = [old for table in tables for old in table.rows]
    names = [old.name for old in rows]
    if row.name in names:
        row.facts = {**rows[names.index(row.name)].facts, **row.facts}
        if rows[names.index(row.name)] == row:
            return
        rows[names.index(row.name)] = row
    else:
        rows.append(row)
    work.show(Table(title, "", rows))
