"""Accuracy of runs as one table: last and best epoch, mean and standard deviation over seeds."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dist_rmd.config import to_dict
from dist_rmd.errors import DataError
from dist_rmd.registry import lookup
from dist_rmd.trained import Trained

__all__ = ["summary"]


TAGS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "knn": ("test/knn_top1", "test/knn_top1_unverified"),
    "accuracy": ("test/top1",),
}
"""evaluation -> the names that its accuracy may have"""

BESIDES = ("name", "out", "seed", "stages", "log", "checkpoint")  # what runs may differ in and still be seeds


class Row(NamedTuple):
    """One line of the table: what was trained on what, the same but for the seeds."""

    method: str
    data: str
    noise: str
    metric: str
    settings: str
    """everything else in the configuration: runs that differ in it are no seeds of one another"""


class Result(NamedTuple):
    """Accuracies (percent) of one trained stage."""

    last: float
    best: float
    best_epoch: int


def summary(runs: Sequence[Path]) -> str:
    """Markdown table of test accuracy: one row per method and noise, over the seeds among the given runs.

    `last` is the last epoch; `best` is chosen by looking at the test images, so it flatters, and is named as such.
    """
    rows: dict[Row, list[Result]] = defaultdict(list)
    for folder in runs:
        for row, result in _results(folder):
            rows[row].append(result)
    lines = [
        "| method | data | noise | metric | last epoch | best epoch (by test) | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, results in rows.items():
        last, best = (_spread([getattr(r, which) for r in results]) for which in ("last", "best"))
        at = ", ".join(str(r.best_epoch) for r in results)
        lines.append(f"| {' | '.join(row[:4])} | {last} | {best} at epoch {at} | {len(results)} |")
    return "\n".join(lines)


def _results(folder: Path) -> list[tuple[Row, Result]]:
    run = Trained(folder)
    config = to_dict(run.config)
    other = {key: value for key, value in config.items() if key not in BESIDES}
    settings = json.dumps(other | {"noise": other["noise"] | {"seed": None}}, sort_keys=True)
    found = []
    for stage in config["stages"]:
        measured = {tag for record in run.scores(stage) for tag in record}
        tag = next((tag for tag in TAGS[lookup("stages", stage).evaluation] if tag in measured), "")
        records = [record for record in run.scores(stage) if tag in record]
        curve = [(record[tag], record["epoch"]) for record in records]
        if curve:
            best, epoch = max(curve, key=lambda point: point[0])
            planned = config[lookup("stages", stage).recipe]["epochs"]
            unfinished = "" if curve[-1][1] == planned else f", unfinished: {curve[-1][1]} of {planned} epochs"
            data = Path(config["data"]["path"]).name
            forced = ", forced" if stage in run.forced else ""
            collapsed = ", collapsed" if records[-1].get("test/predicted_classes") == 1 else ""
            method = _method(stage, config) + unfinished + forced + collapsed
            row = Row(method, data, _noise(run, config), tag, settings)
            found.append((row, Result(curve[-1][0], best, epoch)))
    if not found:
        raise DataError(f"{folder}: the run has not measured anything yet")
    return found


def _method(stage: str, config: dict[str, Any]) -> str:
    loss = config["loss"]["name"].upper()
    rmdnet = f"{loss}+RMDNet (K={config['relation']['k']:g})"
    names = {"classifier": loss, "rgrl": rmdnet, "simsiam": "SimSiam", "vkd": "VKD", "dfnd": "DFND", "modul": "MODUL"}
    return names.get(stage, stage)


def _noise(run: Trained, config: dict[str, Any]) -> str:
    noise = config["noise"]
    if noise["kind"] == "file":
        return " ".join(filter(None, (Path(noise["file"]).name, noise["column"])))
    if noise["kind"] == "openset":
        return f"openset {noise['rho1']:g}, {noise['rho2']:g}"
    if (run.folder / "labels.npz").exists() and run.labels.true is None:
        return "unknown"
    return f"{noise['kind']} {noise['rate']:g}"


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
