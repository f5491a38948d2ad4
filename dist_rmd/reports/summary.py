"""Accuracy of runs as one table: last and best epoch, mean and standard deviation over seeds."""

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dist_rmd.config import Role, to_dict
from dist_rmd.errors import DataError
from dist_rmd.registry import lookup
from dist_rmd.run.finished import FinishedRun
from dist_rmd.text.escapes import markdown

__all__ = ["summary"]


class Row(NamedTuple):
    """A row of the table: method, data and noise that runs share which differ in their seeds alone."""

    method: str
    data: str
    noise: str
    metric: str
    settings: str
    """the whole recipe as text: runs with different settings are not seeds of the same row"""


class Measured(NamedTuple):
    """A network whose accuracy was measured in training."""

    row: Row
    run: FinishedRun
    stage: str
    scores: list[dict[str, Any]]
    """the metrics of each evaluation, among them row.metric (percent)"""
    copies: list[Path]
    """other folders of the same run"""

    @property
    def last(self) -> float:
        """The accuracy after the last epoch so far."""
        return self.scores[-1][self.row.metric]

    @property
    def best(self) -> dict[str, Any]:
        """The scores of the first epoch with the highest accuracy."""
        return max(self.scores, key=lambda scores: scores[self.row.metric])


def summary(runs: Sequence[Path]) -> str:
    """Markdown table of test accuracy: one row per method and noise, over the seeds among the given runs.

    Column `last` is the accuracy after the last epoch; column `best` chooses the epoch by the test images, and
    therefore flatters.  A network that several runs share, such as the teacher, counts once.
    """
    rows: dict[Row, list[Measured]] = defaultdict(list)
    begun, waiting = measurable(runs)
    for network in measured(begun):
        rows[network.row].append(network)
    lines = [
        "| method | data | noise | metric | last epoch | best epoch (by test) | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, networks in rows.items():
        last = spread([network.last for network in networks])
        best = spread([network.best[row.metric] for network in networks])
        at = ", ".join(str(network.best["epoch"]) for network in networks)
        lines.append(f"| {' | '.join(map(markdown, row[:4]))} | {last} | {best} at epoch {at} | {len(networks)} |")
    copies = [
        f"Counted once, being of one recipe and seed: {', '.join(map(str, [network.run.folder, *network.copies]))}."
        for networks in rows.values()
        for network in networks
        if network.copies
    ]
    said = [*dict.fromkeys(copies), *([not_measured(waiting)] if waiting else [])]
    return "\n".join([*lines, *([""] if said else []), *said])


def measurable(runs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The runs with a measured accuracy, and the runs without.  Raises DataError where no run has any."""
    found = {folder: bool(_measured(folder)) for folder in runs}
    if not any(found.values()):
        raise DataError(f"{runs[0]}: the run has not measured anything yet")
    return [folder for folder in runs if found[folder]], [folder for folder in found if not found[folder]]


def not_measured(runs: Sequence[Path]) -> str:
    """A line that names the runs left out of a table."""
    return f"Left out, since nothing is measured yet: {', '.join(map(str, runs))}."


def measured(runs: Sequence[Path]) -> list[Measured]:
    """The networks of the runs whose accuracy has been measured, each once.

    Runs of the same recipe and seeds, such as a copy of a run, or a folder under two paths, count once: the later
    folders become `copies` of the first.
    """
    found: dict[str, Measured] = {}
    by_seeds: dict[tuple[Row, str], Measured] = {}
    for folder in runs:
        for network in _measured(folder):
            seeds = {key: leaf.value for key, leaf in network.run.config.leaves.items() if leaf.role is Role.SEED}
            first = by_seeds.setdefault((network.row, json.dumps(seeds, sort_keys=True)), network)
            if first is not network:
                first.copies.append(folder)
                continue
            run, stage = network.run, network.stage
            found.setdefault(run.key(stage) if run.folder.finished(stage) else f"{folder}/{stage}", network)
    return list(found.values())


def _measured(folder: Path) -> list[Measured]:
    run = FinishedRun(folder)
    config = to_dict(run.config)
    recipe = {key: leaf.value for key, leaf in run.config.leaves.items() if leaf.role.is_recipe}
    settings = json.dumps(recipe | run.resolved, sort_keys=True)
    found = []
    for stage in config["stages"]:
        if lookup("stages", stage).evaluation is None:
            continue
        scores = run.scores(stage)
        # The first test/ metric is the evaluation's main one.  A val/ metric, which chooses epochs, may stand before.
        tag = next((tag for record in scores for tag in record if tag.startswith("test/")), None)
        records = [record for record in scores if tag in record]
        if tag and records:
            epoch = records[-1]["epoch"]
            its = config[lookup("stages", stage).recipe]
            planned, ended_early = its["epochs"], its.get("patience") and run.folder.finished(stage)
            unfinished = "" if epoch == planned or ended_early else f", unfinished: {epoch} of {planned} epochs"
            data = Path(config["data"]["path"]).name
            forced = ", forced" if stage in run.forced else ""
            collapsed = ", collapsed" if records[-1].get("test/predicted_classes") == 1 else ""
            named = method(stage, config) + unfinished + forced + collapsed
            row = Row(named, data, _noise(run, config), tag, settings)
            found.append(Measured(row, run, stage, records, []))
    return found


def method(stage: str, config: Mapping[str, Any]) -> str:
    """What a table calls the method of a stage; what goes beyond its paper is told apart.

    config: all sections of the configuration as plain values.
    """
    task, vkd, modul = (config[section] for section in ("task", "vkd", "modul"))
    mixed = "+Mixup" if task["mixup"] else ""
    loss = f"{config['loss']['name'].upper()}{mixed}"
    plus = " plus" if task["relabel"] else ""  # beyond the paper: relations that also clean
    related = f"+RMDNet{plus} (K={config['relation']['k']:g})"
    softened = any(modul[key] for key in ("soft", "soft_mixed", "soft_open"))  # beyond the paper, too
    distilled = "VKD" if vkd["transfer"] == "features" else f"KD (T={vkd['temperature']:g})"
    names = {
        "classifier": loss, "rgrl": f"{loss}{related}", "rgrl_elr": f"ELR{mixed}{related}",
        "vkd": "CE" if vkd["alpha"] == 1 else distilled, "dfnd": "DFND", "modul": "MODUL plus" if softened else "MODUL",
        "simsiam": "SimSiam", "simclr": "SimCLR", "byol": "BYOL", "moco": "MoCo v2", "dino": "DINO",
    }  # fmt: skip
    return names.get(stage, stage)


def _noise(run: FinishedRun, config: dict[str, Any]) -> str:
    noise = config["noise"]
    if noise["kind"] == "file":
        return " ".join(filter(None, (Path(noise["file"]).name, noise["column"])))
    if noise["kind"] == "openset":
        return f"openset {noise['rho1']:g}, {noise['rho2']:g}"
    if run.folder.labels.exists() and run.labels.true is None:
        return "unknown"
    return f"{noise['kind']} {noise['rate']:g}"


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation over seeds; for a single seed its value."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
