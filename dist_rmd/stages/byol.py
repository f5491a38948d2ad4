"""Representations without labels: BYOL (Grill et al. 2020, https://arxiv.org/abs/2006.07733)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dist_rmd.config import Optimization, Role, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from dist_rmd.data.loading.batch import Batch
from dist_rmd.models.batchnorm import for_training
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import mlp
from dist_rmd.models.statistics import batch_statistics
from dist_rmd.stages._label_free import Branch, MomentumStage, agreement, spread, wide
from dist_rmd.stages.base import DataInfo, batch_mean

__all__ = ["BYOL"]


@dataclass(frozen=True)
class BYOLConfig(Optimization):
    """Stage `byol`: representations without labels (Grill et al. 2020); its constants are those of ImageNet."""

    epochs: PositiveInt = 1000
    """passes over the training images"""
    batch_size: PositiveInt = 256
    """images per optimizer step over all ranks (the global batch)"""
    lr: PositiveFloat = 0.12
    """initial learning rate, for SGD; the paper uses LARS"""
    weight_decay: NonNegativeFloat = 1.5e-6
    """weight decay, on all parameters"""
    warmup_epochs: NonNegativeFloat = 10.0
    """epochs in which the learning rate grows linearly from zero"""
    eval_every: PositiveInt = 10
    """epochs between two kNN evaluations; the last epoch is always evaluated"""
    tau_base: ClosedUnitInterval = 0.996
    """what stays of the target network after the first step; the share grows to 1 by a cosine"""
    proj_hidden: PositiveInt = leaf(4096, Role.NETWORK)
    """hidden width of projector and predictor"""
    proj_out: PositiveInt = leaf(256, Role.NETWORK)
    """dimensions of projection and prediction"""


class Online(Branch):
    """The online network, both views in one forward pass: -> predictions p1 and p2, projections z1, N x D each.

    Each view is normalised by its own batch statistics.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module, predictor: nn.Module):
        super().__init__(encoder, projector)
        self.predictor = predictor
        for_training(self, views=2)

    def forward(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        z = super().forward(torch.cat([view1, view2]))  # 2N x D
        p1, p2 = self.predictor(z).chunk(2)
        return p1, p2, z.detach().chunk(2)[0]


class BYOL(MomentumStage):
    """L = |p1 - z2'|^2 + |p2 - z1'|^2 of unit vectors, where z' are the target network's projections (eq. 2)."""

    sections: ClassVar[Mapping[str, type]] = {"byol": BYOLConfig}
    recipe = "byol"
    views = ("strong", "strong")
    net: Online

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.optimization = config.section(BYOLConfig)
        backbone = encoder(config.model.name, config.model.width, config.model.init)
        self.net = Online(
            backbone,
            mlp(backbone.out_features, c.proj_hidden, c.proj_out, batchnorm=True),
            mlp(c.proj_out, c.proj_hidden, c.proj_out, batchnorm=True),
        )
        self.follow(c.tau_base, c.epochs * (data.images // c.batch_size))
        self.healthy_std = c.proj_out**-0.5

    def followed(self) -> Branch:
        """Return encoder and projector: the target network has no predictor."""
        return Branch(self.net.encoder, self.net.projector)

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        view1, view2 = batch.views
        with torch.no_grad(), batch_statistics(self.target):
            z1, z2 = self.target(torch.cat([view1, view2])).chunk(2)
        p1, p2, projected = net(view1, view2)
        per_sample = 4 - 2 * agreement(p1, p2, z1, z2)
        return {"loss": batch_mean(per_sample, batch), "feature_std": spread(wide(projected))}
