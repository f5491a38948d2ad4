"""Shared parts of the stages that learn an encoder without labels: evaluation, warning, artefact, momentum encoder."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.distributed.collectives import global_moments
from dist_rmd.models.average import average_of, move_average
from dist_rmd.stages.base import Clock, TrainingStage

LabelFree = Literal["simsiam", "simclr", "byol", "moco", "dino"]
"""names of these stages, any of which gives the teacher of relations"""


class LabelFreeStage(TrainingStage):
    """Learns an encoder from views of images alone; nearest neighbours measure it."""

    labels = "none"
    evaluation = "knn"
    healthy_std: float
    """standard deviation of a coordinate of unit vectors spread evenly over the sphere: one over the root of their
    dimensions.  `losses` measures that of the projections as "feature_std", by `spread`"""

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        std = metrics.get("train/feature_std")  # which no evaluation measures
        if std is None or std > 0.1 * self.healthy_std:
            return None
        return (
            f"representations are collapsing: std of normalised projections {std:.5f}, "
            f"healthy is about {self.healthy_std:.4f} (a smaller learning rate usually cures it)"
        )

    def artefact(self) -> dict[str, Any]:
        """The parts of the evaluated network, by name: its encoder and its heads."""
        return {part: net.state_dict() for part, net in self.eval_nets()[""].named_children()}


class Branch(nn.Module):
    """An encoder with a projector: images N x 3 x S x S -> projections N x D."""

    def __init__(self, encoder: nn.Module, projector: nn.Module):
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def forward(self, images: Tensor) -> Tensor:
        z: Tensor = self.projector(self.encoder(images))
        return z


class MomentumStage(LabelFreeStage):
    """Learns from the outputs of `target`, a moving average of the network that is updated after every step.

    After step k = 0, 1, ... of K the share 1 - (1 - momentum) (cos(pi k / K) + 1) / 2 of the old average stays, which
    grows from `momentum` to 1 (BYOL, sec. 3.3; DINO, sec. 3.1).
    """

    def follow(self, momentum: float, steps: int) -> None:
        """Start the moving average from the initial weights.  momentum: 0..1.  steps: K, in the whole training."""
        self.momentum, self.steps = momentum, steps
        self.averages = {"target": average_of(self.followed())}

    def followed(self) -> nn.Module:
        """The network that the target averages."""
        return self.net

    @property
    def target(self) -> nn.Module:
        """The moving average, in evaluation mode and without gradient."""
        return self.averages["target"]

    def kept(self, step: int) -> float:
        """The share of the old average that stays after step `step`, counted from 0."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * step / self.steps) + 1) / 2

    def after_step(self, clock: Clock) -> None:
        move_average(self.target, self.followed(), self.kept(clock.step - 1))


def agreement(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """The cosines of p1 and z2, and of p2 and z1, summed: N x D each -> N, in float32 or wider.  One call does both."""
    cosines = F.cosine_similarity(wide(torch.cat([p1, p2])), wide(torch.cat([z2, z1])))
    return cosines.view(2, -1).sum(dim=0)


def wide(rows: Tensor) -> Tensor:
    """The rows in float32, or wider if they are."""
    return rows.float() if rows.itemsize < 4 else rows


def spread(z: Tensor) -> Tensor:
    """Standard deviation (0-d) of the coordinates of all ranks' rows (b_r x D) on the unit sphere, without gradient."""
    var, mean = torch.var_mean(F.normalize(z.detach()), dim=0, correction=0)
    _, var, rows = global_moments(mean, var, len(z))
    return (var.mean() * rows / (rows - 1)).sqrt()
