"""What a run came to: a line for each of its stages, a table of them all, and the commands that come next."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dist_rmd.engine.score import Score
from dist_rmd.run.folder import RunFolder
from dist_rmd.stages.base import ComputationStage, Stage, TrainingStage


class StageOutcome(NamedTuple):
    """One stage of a run that has ended."""

    stage: type[Stage]
    result: str
    """its score, or what it has worked out, in one line"""
    took: str
    """h:mm:ss of this start; `reused` from another run, or finished `before`"""


def result(stage: type[Stage], scores: Sequence[Mapping[str, Any]]) -> str:
    """What a stage came to, in one line.

    scores: what was measured as it trained, as its artefact has it; of a computation, the one record of what it found.
    """
    return stage.summary(scores[-1]) if issubclass(stage, ComputationStage) else str(Score.of(scores))


def lines(folder: RunFolder, stages: Mapping[str, StageOutcome]) -> list[str]:
    """The table of a run's stages, and the commands that come next, to be pasted into a shell as they are."""
    rows = [("stage", "result", "time"), *((name, one.result, one.took) for name, one in stages.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*table, "next:", *(f"  {command}" for command in _commands(folder, stages))]


def _commands(folder: RunFolder, stages: Mapping[str, StageOutcome]) -> list[str]:
    place = shlex.quote(str(folder))
    networks = any(issubclass(one.stage, TrainingStage) for one in stages.values())
    return [
        *([f"dist-rmd report {place}"] if networks else []),
        *([f"dist-rmd report division {place}"] if "division" in stages else []),
        f"tensorboard --logdir {place}",
        *([f"dist-rmd suspects {place}"] if networks else []),
    ]
