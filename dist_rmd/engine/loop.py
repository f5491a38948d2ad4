"""The training loop of every stage: the only place where optimizer steps are made."""

import itertools
import signal
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from torch import nn

from dist_rmd.config import LabelledOptimization
from dist_rmd.engine import faults
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.metric_logger import MetricLogger
from dist_rmd.engine.step_check import StepCheck
from dist_rmd.engine.trainable import B, Batches, Trainable
from dist_rmd.engine.updater import Updater
from dist_rmd.errors import Stopped

T = TypeVar("T")


class Session(Protocol[B]):
    """A training on this rank, ready to continue at `clock`."""

    net: nn.Module
    """the network to call: wrapped by DDP, or the bare network on one process"""
    updater: Updater
    clock: Clock
    save_every: int
    """epochs between two checkpoints"""

    @property
    def stage(self) -> Trainable[B]: ...

    @property
    def batches(self) -> Batches[B]: ...

    @property
    def check(self) -> StepCheck: ...

    @property
    def observer(self) -> MetricLogger: ...

    def evaluate(self) -> dict[str, float]:
        """Evaluate the network.  Returns metrics, the score first."""
        ...

    def save(self, score: float | None) -> None:
        """Write a checkpoint.  score: the score if it is the best so far, else None."""
        ...


def fit(session: Session[B]) -> None:
    """Train from the session's clock, perhaps within an epoch, to the stage's last epoch.

    With `patience` (LabelledOptimization), training ends early when the score has not improved for so many epochs.
    Writes a checkpoint every `save_every` epochs, at the end, for a new best score, and when the step check asks for
    it.  Raises Stopped after a stop signal and a checkpoint.  Every rank must call it.
    """
    stage, net, clock = session.stage, session.net, session.clock
    updater, check, observer = session.updater, session.check, session.observer
    config = stage.optimization
    while not _is_over(session):
        net.train()
        if clock.batch == 0:
            stage.start_epoch()
            updater.begin_epoch()
        batches = Ahead(observer.waiting(session.batches.epoch(clock.epoch, start=clock.batch)))
        for batch in batches:
            with updater.autocast():
                terms = faults.inject(stage.losses(net, batch), clock, stage.name)
            check.note(terms, batch.indices)  # queues a copy to the CPU: no GPU sync here
            updater.backward(terms["loss"], clock, stage.trained(batch))
            batches.prefetch()  # the CPU makes the next batch while the GPU works on the backward pass
            check.agree(clock)  # on all ranks, before weights change: raises if a term of any rank is not finite
            moved = updater.step()
            clock.tick()
            stage.after_step(clock)
            observer.step(clock, {**terms, **moved})
            if check.save_due or check.stop_signal:
                session.save(None)
            if check.stop_signal:
                name = signal.Signals(check.stop_signal).name
                raise Stopped(f"{stage.name}: stopped by {name} after step {clock.step}, which is saved", agreed=True)
        clock.next_epoch()
        is_last = clock.epoch == config.epochs
        evaluates, saves = (is_last or clock.epoch % every == 0 for every in (config.eval_every, session.save_every))
        record = None
        if evaluates:
            observer.flush(clock)
            record = observer.evaluated(clock, session.evaluate())
        if saves or record is not None or _is_over(session):
            session.save(record)
        observer.resume_timer()
    if clock.epoch < config.epochs:
        observer.console.say(
            f"{stage.name}: no better score in {observer.epochs_since_record} epochs, the patience that it has: ended "
            f"after epoch {clock.epoch} of {config.epochs}"
        )


def _is_over(session: Session[B]) -> bool:
    """Whether the stage has ended: after the last epoch, or early by patience.

    Patience counts evaluations, which are part of a checkpoint, so that a resumed run ends at the same epoch.
    """
    config, clock = session.stage.optimization, session.clock
    patience = config.patience if isinstance(config, LabelledOptimization) else None
    tired = patience is not None and session.observer.epochs_since_record >= patience
    return clock.epoch == config.epochs or tired


class Ahead(Generic[T]):
    """Iterates over `iterable`, and can make the next item early, by `prefetch`."""

    def __init__(self, iterable: Iterable[T]):
        self._iterator = iter(iterable)
        self._fetched: list[T] = []

    def prefetch(self) -> None:
        """Make the next item, unless it is made already or there is none."""
        if not self._fetched:
            self._fetched.extend(itertools.islice(self._iterator, 1))

    def __iter__(self) -> Iterator[T]:
        while True:
            self.prefetch()
            if not self._fetched:
                return
            yield self._fetched.pop()
