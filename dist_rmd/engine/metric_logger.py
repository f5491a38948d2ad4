"""Logs a stage's training: means, speed, scores and warnings go to metrics.jsonl, TensorBoard and the console."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console
from dist_rmd.engine.meters import Meters
from dist_rmd.engine.score import Score
from dist_rmd.engine.writers import Writers
from dist_rmd.errors import NonFiniteLoss

T = TypeVar("T")


class MetricLogger:
    """The logger of one stage.  All ranks make the same calls; rank 0 writes.

    every: optimizer steps between two points of the curves.  batch_size: of the global batch.  readings: what the
    curves show beside the means, asked for at each point.  warn: turns the means, or what an evaluation has measured,
    into one line for the user when they look wrong, else None.
    """

    best: float | None = None
    """the highest score of the stage so far"""
    scores: list[dict[str, float]]
    """metrics of all evaluations so far, with epoch and step"""

    def __init__(
        self,
        stage: str,
        writers: Writers,
        console: Console,
        every: int,
        batch_size: int,
        readings: Callable[[], dict[str, float]],
        warn: Callable[[Mapping[str, float]], str | None],
    ):
        self.stage, self.writers, self.console = stage, writers, console
        self.every, self.batch_size, self.readings, self.warn = every, batch_size, readings, warn
        self.meters = Meters()
        self.scores: list[dict[str, float]] = []

    @property
    def epochs_since_record(self) -> int:
        """Epochs between the evaluation with the highest score (the earliest if several) and the newest one."""
        if not self.scores:
            return 0
        tag = next(tag for tag in self.scores[0] if "/" in tag)
        record = max(self.scores, key=lambda found: found[tag])
        return int(self.scores[-1]["epoch"] - record["epoch"])

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Iterate over `batches`, and measure the time spent waiting for each."""
        return self.meters.waiting(batches)

    def step(self, clock: Clock, terms: Mapping[str, Tensor]) -> None:
        """Count one optimizer step; write a point of the curves every so many steps.

        Raises NonFiniteLoss when a mean since the last point is not finite.
        """
        self.meters.add(terms, self.batch_size)
        if clock.step % self.every == 0:
            self.flush(clock)
        self.console.step(clock)

    def flush(self, clock: Clock) -> None:
        """Write the means since the last point, if there was a step."""
        if not self.meters.steps:
            return
        metrics = self.meters.reduce()
        self._check(clock, metrics)
        self.writers.scalars(clock, metrics | self.readings())
        self.console.step(clock, metrics)
        self._warn(metrics)

    def evaluated(self, clock: Clock, metrics: Mapping[str, float]) -> float | None:
        """Log `metrics` of an evaluation after clock.epoch epochs.  Returns the score (the first) if it is the best."""
        score = next(iter(metrics.values()))
        self.writers.scalars(clock, metrics)
        self.scores.append({"epoch": clock.epoch, "step": clock.step, **metrics})
        self.console.evaluated(Score.of(self.scores))
        self._warn(metrics)
        if self.best is not None and score <= self.best:
            return None
        self.best = score
        return score

    def resume_timer(self) -> None:
        """Restart the timer: the time of an evaluation or a checkpoint does not count as training."""
        self.meters.resume_timer()

    def state_dict(self, clock: Clock) -> dict[str, Any]:
        """The state that a resumed run needs to write the same curves.  Every rank must call this function.

        Raises NonFiniteLoss as `step` does, so that no loss is saved unchecked.
        """
        meters = self.meters.state_dict()
        for kind in meters["kinds"]:
            names = [name for name, size in kind["terms"] for _ in range(size)]
            self._check(clock, dict(zip(names, kind["sums"].sum(0).tolist(), strict=True)))
        return {"meters": meters, "best": self.best, "scores": self.scores}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.meters.load_state_dict(state["meters"], device)
        self.best, self.scores = state["best"], list(state["scores"])

    def _warn(self, metrics: Mapping[str, float]) -> None:
        if warning := self.warn(metrics):
            self.console.say(f"{self.stage}: {warning}")

    def _check(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteLoss(
                    f"{self.stage}: {name} is {value} in one of the steps up to {clock.step} "
                    "(a smaller learning rate usually cures it)",
                    agreed=True,
                )
