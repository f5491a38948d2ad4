"""Representations without labels: SimSiam (Chen & He 2021, https://arxiv.org/abs/2011.10566), RMDNet's first module."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dist_rmd.config import Optimization, Role, StageConfig, leaf
from dist_rmd.config.key_types import NonNegativeInt, PositiveFloat, PositiveInt
from dist_rmd.data.loading.batch import Batch
from dist_rmd.models.batchnorm import for_training
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import predictor, projector
from dist_rmd.stages._label_free import LabelFreeStage, agreement, spread, wide
from dist_rmd.stages.base import DataInfo, batch_mean

__all__ = ["SimSiam"]


@dataclass(frozen=True)
class SimSiamConfig(Optimization):
    """Stage `simsiam`: representations without labels (RMDNet sec. 3.2.1 and 4.3)."""

    epochs: PositiveInt = 1000
    """passes over the training images"""
    lr: PositiveFloat = 0.03
    """initial learning rate"""
    eval_every: PositiveInt = 10
    """epochs between two kNN evaluations; the last epoch is always evaluated"""
    views: Literal["strong", "weak"] = "strong"
    """strong: crop, flip, colours; weak: shift and flip, as in the later stages"""
    proj_layers: NonNegativeInt = leaf(2, Role.NETWORK)
    """linear layers of the projector; 0: none, the predictor sits on the encoder"""
    proj_hidden: PositiveInt = leaf(2048, Role.NETWORK)
    """hidden width of the projector"""
    proj_out: PositiveInt = leaf(2048, Role.NETWORK)
    """dimensions of the projection"""
    pred_hidden: PositiveInt = leaf(512, Role.NETWORK)
    """hidden width of the predictor"""
    fix_pred_lr: bool = False
    """keep the predictor at the initial learning rate"""


class Siamese(nn.Module):
    """Both branches in one forward pass: two views N x 3 x S x S -> p1, p2, z1, z2, each N x D.

    Batch statistics never mix the two: each view is normalised by its own.
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module, predictor: nn.Module):
        super().__init__()
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        for_training(self, views=2)

    def forward(self, view1: Tensor, view2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z = self.projector(self.encoder(torch.cat([view1, view2])))  # 2N x D
        p1, p2 = self.predictor(z).chunk(2)
        z1, z2 = z.detach().chunk(2)
        return p1, p2, z1, z2


class SimSiam(LabelFreeStage):
    """L = C(p1, stopgrad z2) / 2 + C(p2, stopgrad z1) / 2, C = minus cosine similarity (RMDNet eq. 1-3)."""

    sections: ClassVar[Mapping[str, type]] = {"simsiam": SimSiamConfig}
    recipe = "simsiam"
    net: Siamese

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.optimization = config.section(SimSiamConfig)
        self.views = (c.views, c.views)
        backbone = encoder(config.model.name, config.model.width, config.model.init)
        out = c.proj_out if c.proj_layers else backbone.out_features
        self.net = Siamese(
            backbone,
            projector(backbone.out_features, c.proj_hidden, c.proj_out, c.proj_layers),
            predictor(out, c.pred_hidden),
        )
        self.fix_pred_lr = c.fix_pred_lr
        self.healthy_std = out**-0.5

    def param_groups(self) -> list[dict[str, Any]]:
        body = [*self.net.encoder.parameters(), *self.net.projector.parameters()]
        return [
            {"params": body},
            {"params": list(self.net.predictor.parameters()), "constant_lr": self.fix_pred_lr},
        ]

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        p1, p2, z1, z2 = net(*batch.views)
        per_sample = -agreement(p1, p2, z1, z2) / 2
        return {"loss": batch_mean(per_sample, batch), "feature_std": spread(wide(z1))}
