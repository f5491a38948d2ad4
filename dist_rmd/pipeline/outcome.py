"""The outcome of a run in words: a line for each stage, a table of all stages, and the commands that come next."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dist_rmd.config import Config, sections
from dist_rmd.engine.score import Score
from dist_rmd.run.folder import RunFolder
from dist_rmd.stages.base import ClassifierStage, ComputationStage, Stage, TrainingStage

ALWAYS = {
    "seed", "noise.kind", "noise.rate", "model.name", "model.width", "task.epochs", "task.lr", "task.batch_size",
    "loss.name", "relation.k",
}  # fmt: skip
"""keys that `settings` lists even at their defaults"""


class StageOutcome(NamedTuple):
    """One stage of a run that has ended."""

    stage: type[Stage]
    result: str
    """the stage's score, or the result of a computation, in one line"""
    took: str
    """h:mm:ss of this start; `reused` from another run, or finished `before`"""


def result(stage: type[Stage], scores: Sequence[Mapping[str, Any]]) -> str:
    """The result of a stage in one line.

    scores: the metrics of the stage's evaluations, as its artefact has them; for a computation, the record of its
    findings alone.
    """
    return stage.summary(scores[-1]) if issubclass(stage, ComputationStage) else str(Score.of(scores))


def lines(folder: RunFolder, stages: Mapping[str, StageOutcome]) -> list[str]:
    """The table of a run's stages, and the commands that come next, to be pasted into a shell as they are."""
    rows = [("stage", "result", "time"), *((name, one.result, one.took) for name, one in stages.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*table, "next:", *(f"  {command}" for command in _commands(folder, stages))]


def settings(config: Config, stages: Mapping[str, type[Stage]]) -> dict[str, str | bool | int | float]:
    """The settings by which runs are compared: keys that change the result, where they are not at their defaults.

    The keys in ALWAYS are listed even at their defaults, where the run's stages read them.
    """
    usual, read = sections.parse(None).leaves, {name for stage in stages.values() for name in stage.sections}
    found: dict[str, str | bool | int | float] = {"stages": " ".join(config.stages)}
    for key, (value, role) in config.leaves.items():
        section = key.partition(".")[0]
        unread = section in config.sections and section not in read
        if role.is_learned and not unread and (key in ALWAYS or key not in usual or value != usual[key].value):
            found[key] = value if isinstance(value, str | bool | int | float) else str(value)
    return found


def _commands(folder: RunFolder, stages: Mapping[str, StageOutcome]) -> list[str]:
    place = shlex.quote(str(folder))
    networks = any(issubclass(one.stage, TrainingStage) for one in stages.values())
    classifies = any(issubclass(one.stage, ClassifierStage) for one in stages.values())
    return [
        *([f"dist-rmd report {place}"] if networks else []),
        *([f"dist-rmd report division {place}"] if "division" in stages else []),
        f"tensorboard --logdir {place}",
        *([f"dist-rmd suspects {place}"] if networks else []),
        *([f"dist-rmd predict {place} photos  # files or folders of yours"] if classifies else []),
    ]
