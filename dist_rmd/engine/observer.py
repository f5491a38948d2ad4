"""Watches a stage's training: means, speed and warnings, to metrics.jsonl, TensorBoard and the console."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from torch import Tensor

from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console
from dist_rmd.engine.meters import Meters
from dist_rmd.engine.writers import Writers
from dist_rmd.errors import NonFiniteLoss

T = TypeVar("T")


class Observer:
    """Every rank has one and calls it alike; rank 0's writes.

    every: optimizer steps between two points of the curves.  batch_size: of the global batch.  warn: turns the means
    into one line for the user when they look wrong, else None.
    """

    def __init__(
        self,
        stage: str,
        writers: Writers,
        console: Console,
        every: int,
        batch_size: int,
        warn: Callable[[Mapping[str, float]], str | None],
    ):
        self.stage, self.writers, self.console = stage, writers, console
        self.every, self.batch_size, self.warn = every, batch_size, warn
        self.meters = Meters()

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass `batches` through, counting the time that each is waited for."""
        return self.meters.waiting(batches)

    def step(self, clock: Clock, terms: Mapping[str, Tensor], lr: float) -> None:
        """One optimizer step was made.  Raises NonFiniteLoss when a mean since the last point is not finite."""
        self.meters.add(terms, self.batch_size)
        self.lr = lr
        if clock.step % self.every == 0:
            self.flush(clock)
        self.console.step(clock)

    def flush(self, clock: Clock) -> None:
        """Write the means since the last point, if there was a step; whatever is saved after it has been checked."""
        if not self.meters.steps:
            return
        metrics = self.meters.reduce()
        self._check(clock, metrics)
        self.writers.scalars(clock, metrics | {"train/lr": self.lr})
        self.console.step(clock, metrics)
        if warning := self.warn(metrics):
            self.console.say(f"{self.stage}: {warning}")

    def evaluated(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        """`metrics` of the network after clock.epoch epochs."""
        self.writers.scalars(clock, metrics)
        self.console.evaluated(metrics)

    def resume_timer(self) -> None:
        """What passed since the last step, evaluation and saving, was not training time."""
        self.meters.resume_timer()

    def _check(self, clock: Clock, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteLoss(
                    f"{self.stage}: {name} is {value} in one of the steps up to {clock.step} "
                    "(a smaller learning rate usually cures it)"
                )
