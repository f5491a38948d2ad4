"""The product's own training loop, fit(), as one call per epoch, and with a stopwatch where a phase ends."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from dist_rmd.config import sections
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.distributed import processes
from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console
from dist_rmd.engine.loop import fit
from dist_rmd.engine.metric_logger import MetricLogger
from dist_rmd.engine.signals import StopRequest
from dist_rmd.engine.step_check import StepCheck
from dist_rmd.engine.updater import Updater
from dist_rmd.engine.writers import Writers
from dist_rmd.pipeline.resolved import check
from dist_rmd.pipeline.session import StageSession, placed
from dist_rmd.run.folder import RunFolder
from dist_rmd.stages.base import TrainingStage
from tools.bench_parts.settings import Settings
from tools.bench_parts.timing import Stopwatch

SILENCE = 1e9  # seconds between two lines of the console


class Epochs(StageSession):
    """Each call trains a stage for one epoch, of `steps` steps of `batch` images, as `train` would.

    Left out are evaluation and checkpoints.  exchange: let DDP average gradients over the ranks.
    """

    save_every = 10**9

    def __init__(
        self,
        settings: Settings,
        stage: str,
        steps: int,
        batch: int,
        options: tuple[str, ...] = (),
        peers: RankGroup | None = None,
        exchange: bool = True,
    ):
        recipe = "simsiam" if stage == "simsiam" else "task"
        name, width = settings.network
        classes = len(open_dataset(settings.data).classes)
        overrides = [
            f"stages=[{stage}]", f"device={settings.device}", f"data.path={settings.data}", f"out={settings.scratch}",
            f"data.per_class={-(-steps * batch // classes)}", f"model.name={name}", f"model.width={width}",
            f"precision={settings.precision}", "noise.rate=0.4", "relation.teacher=random",
            f"{recipe}.batch_size={batch}", *options,
        ]  # fmt: skip
        plan = check(sections.parse(None, overrides))
        peers = peers or processes.start(plan.world, plan.config.dist.timeout)
        built = placed(plan, stage, {})
        assert isinstance(built, TrainingStage)
        super().__init__(plan, built, plan.source())
        self.watch = Stopwatch(settings.device)
        self.updater = _Updater(
            built.param_groups(), built.optimization, len(self.batches), plan.world.device, plan.precision
        )
        writers = Writers(RunFolder(settings.scratch), stage, plan.world.rank)
        self.observer = _Observer(
            stage, writers, Console(plan.world.rank, SILENCE, RunFolder(settings.scratch)), plan.config.log.every,
            batch, self.updater.readings, lambda metrics: None,
        )  # fmt: skip
        self.check = _StepCheck(stage, peers, StopRequest(), minutes=1e6)
        self.updater.watch = self.observer.watch = self.check.watch = self.watch
        writers.open(resumed_at=self.clock)
        self.observer.console.start(stage, done=0, steps=10**9)
        self.exchange = exchange or plan.world.size == 1

    def __call__(self) -> None:
        self.stage.optimization = replace(self.stage.optimization, epochs=self.clock.epoch + 1)
        with contextlib.nullcontext() if self.exchange else self.wrapped.no_sync():  # type: ignore[operator]
            fit(self)

    def evaluate(self) -> dict[str, float]:
        return {"test/none": 0.0}

    def save(self, score: float | None) -> None:
        """Nothing is kept."""


class _Observer(MetricLogger):
    watch: Stopwatch

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        self.watch.start()
        for batch in super().waiting(batches):
            self.watch.mark("data wait")
            yield batch
            self.watch.mark("backward")  # after which the loop makes the next batch

    def step(self, clock: Clock, terms: Mapping[str, Tensor]) -> None:
        super().step(clock, terms)
        self.watch.mark("rest")


class _StepCheck(StepCheck):
    watch: Stopwatch

    def note(self, terms: Mapping[str, Tensor], indices: Tensor) -> None:
        self.watch.mark("forward")
        super().note(terms, indices)

    def agree(self, clock: Clock) -> None:
        super().agree(clock)
        self.watch.mark("agreement")


class _Updater(Updater):
    watch: Stopwatch

    def step(self) -> dict[str, Tensor]:
        moved = super().step()
        self.watch.mark("optimizer")
        return moved
