"""Puts one stage of a run together on this rank, ready for its first step: for training, dry runs and tools/bench."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distributed import processes
from dist_rmd.distributed.processes import World
from dist_rmd.engine import compilation
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.updater import Updater, parameter_dtype
from dist_rmd.models.batchnorm import for_training
from dist_rmd.pipeline.resolved import ResolvedRun
from dist_rmd.stages.base import Stage, TrainingStage


def placed(plan: ResolvedRun, name: str, inputs: Mapping[str, Any]) -> Stage:
    """Make the stage `name` with its initial weights, on this rank's device and in the run's precision.

    inputs: artefacts of this run's earlier stages, by stage.
    """
    stage, config = plan.build(name, inputs), plan.config
    place(stage, plan.world, parameter_dtype(plan.precision), config.dist.sync_batchnorm, config.speed.compile)
    return stage


def place(stage: Stage, world: World, dtype: torch.dtype, sync_batchnorm: bool = True, compiled: bool = False) -> None:
    """Move all networks and the memory of `stage` to this rank's device.  dtype: type of parameters."""
    if isinstance(stage, TrainingStage):
        stage.net = processes.place(stage.net, world, sync_batchnorm, dtype, compiled)
        for average in stage.averages.values():
            processes.place(average, world, sync_batchnorm, dtype)
        stage.memory = {
            name: tensor.to(world.device, dtype if tensor.dtype == torch.float32 else None)
            for name, tensor in stage.memory.items()
        }
        if not compiled:
            for net in (stage.net, *stage.averages.values()):  # an average takes its network's count of batches
                for_training(net)
    for frozen in stage.frozen():
        processes.place(frozen, world, sync_batchnorm=False, dtype=dtype)


class StageSession:
    """A placed stage with its batches, optimizer and DDP network, ready for the first step.

    Every rank must make it, since DDP and `stage.prepare` communicate.
    """

    def __init__(self, plan: ResolvedRun, stage: TrainingStage, source: Loaders):
        config, world, kind = plan.config, plan.world, type(stage)
        self.plan, self.stage, self.source = plan, stage, source
        labels = plan.training(kind)
        stage.prepare(source, labels)
        self.batches = stage.batches(source, labels, kind.scope(config).seed)
        self.updater = Updater(
            stage.param_groups(), stage.optimization, len(self.batches), world.device, plan.precision
        )
        self.wrapped = processes.parallel(stage.net, world, config.dist)
        """the network wrapped by DDP"""
        self.net: nn.Module = self.wrapped
        """the network to call: the wrapped network, compiled if speed.compile says so"""
        if config.speed.compile:
            self.net = compilation.compiled(self.wrapped, stage.frozen(), config.speed.cuda_graphs)
        self.clock = Clock()
