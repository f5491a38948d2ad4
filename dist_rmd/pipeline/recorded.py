"""Carries out one stage, and writes curves, checkpoints and the result into the run folder.

A stopped stage resumes from the newest checkpoint there.
"""

import contextlib
import signal
from dataclasses import replace
from typing import Any

from torch import nn

from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distributed import processes
from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.engine import compilation, resume
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console
from dist_rmd.engine.loop import fit
from dist_rmd.engine.metric_logger import MetricLogger
from dist_rmd.engine.score import Score
from dist_rmd.engine.signals import StopRequest
from dist_rmd.engine.step_check import StepCheck
from dist_rmd.engine.tracking import Tracking
from dist_rmd.engine.writers import Writers
from dist_rmd.errors import DataError, Stopped, UserError
from dist_rmd.evaluation._splits import splits
from dist_rmd.models.encoder import frozen_encoder
from dist_rmd.models.heads import frozen_classifier
from dist_rmd.pipeline import pictures
from dist_rmd.pipeline.measured import measured
from dist_rmd.pipeline.resolved import ResolvedRun
from dist_rmd.pipeline.session import StageSession, placed
from dist_rmd.registry import lookup
from dist_rmd.run import artefacts
from dist_rmd.stages.base import ComputationStage, TrainingStage

PERCENT = 100


class RecordedSession(StageSession):
    """A session that `dist_rmd.engine.loop.fit` trains.  All ranks make it and make the same calls; rank 0 writes."""

    def __init__(
        self,
        plan: ResolvedRun,
        stage: TrainingStage,
        source: Loaders,
        peers: RankGroup,
        request: StopRequest,
        console: Console,
        tracking: Tracking,
    ):
        super().__init__(plan, stage, source)
        config, rank, recipe = plan.config, plan.world.rank, stage.optimization
        self.peers, self.console, self.save_every = peers, console, config.checkpoint.every
        self.writers = Writers(plan.folder, stage.name, rank, tracking)
        self.observer = MetricLogger(
            stage.name, self.writers, console, config.log.every, recipe.batch_size, self.updater.readings, stage.warning
        )
        self.checkpoints = Checkpoints(plan.folder.checkpoints(stage.name), config.checkpoint.keep)
        self.check = StepCheck(stage.name, peers, request, config.checkpoint.minutes)
        self.splits = splits(source, plan.labels, plan.validation(type(stage)))

    def train(self, key: str) -> dict[str, Any]:
        """Train to the end, from the newest checkpoint if there is one.  Returns the stage's artefact.

        key: the hash that the configuration determines.  A stage that was forced (`--force`) to go on under another
        configuration than it began with gets a key of its own, so that no other run reuses the mixture.
        """
        self._resume(key)
        stage, clock, console, epochs = self.stage, self.clock, self.console, self.stage.optimization.epochs
        console.start(stage.name, done=clock.step, steps=len(self.batches) * epochs, epochs=epochs)
        if self.observer.scores:
            console.evaluated(Score.of(self.observer.scores))
        with contextlib.ExitStack() as leaving:
            for leave in (self.writers.close, console.stop, self.checkpoints.wait):  # called in reverse order
                leaving.callback(leave)
            try:
                with compilation.explained():
                    fit(self)
            except UserError as error:
                self.checkpoints.wait()
                if error.agreed:  # a rank that exits ends the others: wait until rank 0's checkpoint is on the disk
                    self.peers.gather(None)
                raise
        key = key if len(self.lineage) == 1 else artefacts.key_of({"lineage": self.lineage})
        return self.plan.artefact(stage, key, self.observer.scores)

    def evaluate(self) -> dict[str, float]:
        """Evaluate the stage's networks.  Returns metrics, the score first.  Every rank must call it."""
        nets = self.stage.eval_nets()
        for net in nets.values():
            processes.share_buffers(net)
        made = self.stage.pictures()
        if made is not None:
            self.writers.images(self.clock, "generated/images", pictures.framed(self.plan.dataset, made))
        return measured(str(self.stage.evaluation), nets, self.splits)

    def save(self, score: float | None) -> None:
        """Write a checkpoint.  score: that of this checkpoint if it is the best so far, else None.

        Every rank must call it.
        """
        state = resume.capture(self.lineage, self.stage, self.updater, self.clock, self.observer)
        state["origin"] = self.plan.origin(self.stage)
        if self.plan.world.leads:
            self.writers.flush()
            self.checkpoints.save(self.clock.step, state, score, world=self.plan.world.size)
        self.check.saved()

    def _resume(self, key: str) -> None:
        """Restore the newest checkpoint, if there is one."""
        plan, stage, clock = self.plan, self.stage, self.clock
        self.lineage = resume.restore(self.checkpoints, key, plan.force, stage, self.updater, clock, self.observer)
        found = self.peers.gather(clock.step)  # also a barrier: all ranks have read before rank 0 writes
        if len(set(found)) > 1:
            raise DataError(
                f"{self.checkpoints.folder}: the ranks found checkpoints of steps {found}: is out={plan.config.out} on "
                "a file system that all machines share?"
            )
        if clock.step:
            self.console.say(f"{stage.name}: going on from epoch {clock.epoch}, step {clock.step}")
        self.writers.open(resumed_at=clock)
        if clock.step == 0 and plan.world.leads and stage.views:
            self.writers.images(clock, "train/views", pictures.views(plan.dataset, next(self.batches.epoch(0))))


def measured_anew(plan: ResolvedRun, name: str, artefact: dict[str, Any], source: Loaders) -> dict[str, Any]:
    """Evaluate a reused artefact on this run's test images; returns the artefact with these scores.

    Called when the artefact was measured on other test images.  The scores then have one entry, of the last epoch.
    Every rank must call it.
    """
    kind = plan.stages[name]
    if not issubclass(kind, TrainingStage):
        return {**artefact, "measured_on": plan.dataset.hashes["test"]}  # computations use training images only
    needs = [needed for needed in kind.needs(kind.scope(plan.config)) if needed not in plan.inputs]
    stage = placed(plan, name, {needed: artefacts.load(plan.folder.artefact(needed)) for needed in needs})
    assert isinstance(stage, TrainingStage)
    for own, net in stage.eval_nets().items():
        weights = artefact["others"][own] if own else artefact
        for part, module in net.named_children():
            if part in weights:
                module.load_state_dict(weights[part])
    metrics = measured(str(stage.evaluation), stage.eval_nets(), splits(source, plan.labels, plan.validation(kind)))
    last = artefact["scores"][-1]
    scores = [{"epoch": last["epoch"], "step": last["step"], **metrics}]
    return {**artefact, "scores": scores, "measured_on": plan.dataset.hashes["test"]}


def with_measured_inputs(plan: ResolvedRun, source: Loaders) -> ResolvedRun:
    """Measure the inputs that have not been measured on this run's test images; returns the plan with these scores.

    They are networks of another library, and those of a run with other test images.  Every rank must call it.
    """
    inputs, test = dict(plan.inputs), plan.dataset.hashes["test"]
    for name, origin in plan.inputs.items():
        evaluation = lookup("stages", name).evaluation
        is_known = origin.content is None and origin.measured_on in (None, test)
        if evaluation is None or is_known:
            continue
        content = origin.content or artefacts.load(origin.path)
        is_knn = evaluation == "knn"
        net = nn.ModuleDict({"encoder": frozen_encoder(content)}) if is_knn else frozen_classifier(content)
        processes.place(net, plan.world, sync_batchnorm=False, dtype=source.dtype)
        metrics = measured(evaluation, {"": net}, splits(source, plan.labels))
        scores = [{"epoch": 0, "step": 0, **metrics}]
        inputs[name] = replace(origin, content={**content, "scores": scores, "measured_on": test})
    return replace(plan, inputs=inputs)


def compute(
    plan: ResolvedRun,
    stage: ComputationStage,
    source: Loaders,
    request: StopRequest,
    console: Console,
    tracking: Tracking,
    key: str,
) -> dict[str, Any]:
    """Carry out a computation stage that has been placed.  Returns its artefact."""
    labels = plan.training(type(stage))

    def proceed(share: float) -> None:
        if request.signal:
            raise Stopped(f"{stage.name}: stopped by {signal.Signals(request.signal).name}, to be begun anew")
        console.step(Clock(step=round(PERCENT * share)))

    writers = Writers(plan.folder, stage.name, plan.world.rank, tracking)
    writers.open(resumed_at=Clock())
    console.start(stage.name, done=0, steps=PERCENT)
    with contextlib.ExitStack() as leaving:
        for leave in (writers.close, console.stop):
            leaving.callback(leave)
        metrics = stage.compute(source, labels, proceed)
        writers.scalars(Clock(), metrics)
    return plan.artefact(stage, key, [{"epoch": 0, "step": 0, **metrics}])
