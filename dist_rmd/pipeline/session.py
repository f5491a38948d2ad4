"""One stage of a run, put together on this rank: what training, a dry run and tools/bench start from."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dist_rmd.data.source import Source
from dist_rmd.engine import compilation, distributed
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.updater import Updater, parameter_dtype
from dist_rmd.plan import Plan
from dist_rmd.stages.base import Stage, Training


def placed(plan: Plan, name: str, inputs: Mapping[str, Any]) -> Stage:
    """The stage `name` with its initial weights, on this rank's device and in the run's precision.

    inputs: artefacts of this run's earlier stages, by name.
    """
    stage, config = plan.build(name, inputs), plan.config
    dtype = parameter_dtype(plan.precision)
    if isinstance(stage, Training):
        stage.net = distributed.place(
            stage.net, plan.world, config.dist.sync_batchnorm, dtype, compiled=config.speed.compile
        )
    for frozen in stage.frozen():
        distributed.place(frozen, plan.world, sync_batchnorm=False, dtype=dtype)
    return stage


class StageSession:
    """A stage that has been placed, with its batches, its optimizers and its wrapped network: ready for its first step.

    Every rank must make it.
    """

    def __init__(self, plan: Plan, stage: Training, source: Source):
        config, world, kind = plan.config, plan.world, type(stage)
        self.plan, self.stage, self.source = plan, stage, source
        self.batches = stage.batches(source, plan.training(kind), kind.scope(config).seed)
        self.updater = Updater(
            stage.param_groups(), stage.optimization, len(self.batches), world.device, plan.precision
        )
        self.wrapped = distributed.parallel(stage.net, world, config.dist)
        """the network as DDP has it"""
        self.net: nn.Module = self.wrapped
        """the network to be called: that one, or compiled"""
        if config.speed.compile:
            self.net = compilation.compiled(self.wrapped, stage.frozen(), config.speed.cuda_graphs)
        self.clock = Clock()
