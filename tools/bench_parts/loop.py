"""The product's own training loop, fit(), as one call per epoch, and with a stopwatch where a phase ends."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from dist_rmd import sections
from dist_rmd.data.beton import open_dataset
from dist_rmd.engine import compilation, distributed
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console
from dist_rmd.engine.loop import fit
from dist_rmd.engine.observer import Observer
from dist_rmd.engine.peers import Peers
from dist_rmd.engine.signals import StopRequest
from dist_rmd.engine.step_check import StepCheck
from dist_rmd.engine.updater import Updater
from dist_rmd.engine.writers import Writers
from dist_rmd.plan import check
from dist_rmd.stages.base import Training
from tools.bench_parts.settings import Settings
from tools.bench_parts.timing import Stopwatch

SILENCE = 1e9  # seconds between two lines of the console


class Epochs:
    """Each call trains a stage for one epoch, of `steps` steps of `batch` images, as `train` would.

    Left out are evaluation and checkpoints.  exchange: let DDP average gradients over the ranks.
    """

    def __init__(
        self,
        settings: Settings,
        stage: str,
        steps: int,
        batch: int,
        options: tuple[str, ...] = (),
        peers: Peers | None = None,
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
        config = plan.config
        peers = peers or distributed.start(plan.world, config.dist.timeout)
        self.watch = Stopwatch(settings.device)
        built = plan.build(stage, {})
        assert isinstance(built, Training)
        self.stage, kind = built, type(built)
        plan.place(self.stage)
        self.loader = self.stage.batches(plan.source(), plan.training(kind), kind.seed(config))
        self.updater = _Updater(
            self.stage.param_groups(), self.stage.optimization, len(self.loader), plan.world.device, plan.precision
        )
        self.updater.watch = self.watch
        writers = Writers(settings.scratch, stage, plan.world.rank)
        self.observer = _Observer(
            stage, writers, Console(plan.world.rank, SILENCE, settings.scratch), config.log.every,
            batch, self.updater.readings, lambda metrics: None,
        )  # fmt: skip
        self.observer.watch = self.watch
        self.check = _StepCheck(stage, peers, StopRequest(), minutes=1e6)
        self.check.watch = self.watch
        self.clock = Clock()
        writers.open(resumed_at=self.clock)
        self.observer.console.start(stage, done=0, steps=10**9)
        self.wrapped = distributed.parallel(self.stage.net, plan.world, config.dist)
        self.net = self.wrapped
        if config.speed.compile:
            self.net = compilation.compiled(self.wrapped, self.stage.frozen(), config.speed.cuda_graphs)
        self.exchange = exchange or plan.world.size == 1

    def __call__(self) -> None:
        self.stage.optimization = replace(self.stage.optimization, epochs=self.clock.epoch + 1)
        with contextlib.nullcontext() if self.exchange else self.wrapped.no_sync():  # type: ignore[operator]
            fit(
                self.stage, self.net, self.loader, self.updater, self.clock, self.check, self.observer,
                lambda: {"test/none": 0.0}, lambda score: None, 10**9,
            )  # fmt: skip


class _Observer(Observer):
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
