"""Chooses the value of a key, such as K, by accuracy on held-out training labels, without test images."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_rmd.files import write_json
from dist_rmd.run.finished import FinishedRun
from dist_rmd.sweep.grid import GridRun, Search, folder_name
from dist_rmd.sweep.tasks import RunSpec

Trials = Mapping[str, Mapping[Any, Sequence[RunSpec]]]
"""place of a cell -> value -> the runs with it, one for each seed"""


def trials(search: Search, cells: Iterable[GridRun], plan: Callable[[GridRun, str], RunSpec]) -> Trials:
    """All runs of the search on `cells`, which have its seeds; `plan` makes a task of a cell and a run's name."""
    found: dict[str, dict[Any, list[RunSpec]]] = {}
    for cell in cells:
        for value in search.values:
            trial = cell.having({search.key: value, "data.holdout": search.holdout})
            task = plan(trial, f"search/{cell.place}/{search.key}={folder_name(str(value))}-seed{cell.seed}")
            found.setdefault(cell.place, {}).setdefault(value, []).append(task)
    return found


def best(made: Trials, key: str, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Choose for each cell the value with the highest accuracy on held-out labels (last epoch, mean over seeds).

    A value counts only if all of its runs have finished; a cell without such a value is missing from the result.  All
    accuracies are written to <folder>/search.json.
    """
    found: dict[str, dict[str, Any]] = {}
    for place, values in made.items():
        done = {value: tasks for value, tasks in values.items() if all(task.state == "done" for task in tasks)}
        if not done:
            say(f"{place}: no {key} can be chosen, since none of its runs is finished")
            continue
        scores = {value: statistics.mean(_score(task) for task in tasks) for value, tasks in done.items()}
        value = max(scores, key=lambda value: scores[value])
        say(f"{place}: {key}={value}  (val/top1 {', '.join(f'{v}: {score:.2f}' for v, score in scores.items())})")
        found[place] = {"key": key, "value": value, "val/top1": {str(v): score for v, score in scores.items()}}
    write_json(folder / "search.json", found)
    return {place: choice["value"] for place, choice in found.items()}


def _score(task: RunSpec) -> float:
    return FinishedRun(task.folder.path).scores(task.config.stages[-1])[-1]["val/top1"]
