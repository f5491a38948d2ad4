"""Representations without labels: SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dist_rmd.config import Optimization, Role, StageConfig, leaf
from dist_rmd.config.key_types import NonNegativeFloat, PositiveFloat, PositiveInt
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill.nt_xent import nt_xent
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import mlp
from dist_rmd.stages._label_free import Branch, LabelFreeStage, spread
from dist_rmd.stages.base import DataInfo, batch_mean

__all__ = ["SimCLR"]


@dataclass(frozen=True)
class SimCLRConfig(Optimization):
    """Stage `simclr`: representations without labels (Chen et al. 2020); its constants are those of ImageNet."""

    epochs: PositiveInt = 1000
    """passes over the training images"""
    batch_size: PositiveInt = 256
    """images per optimizer step over all ranks (the global batch); a projection has 2 batch_size - 2 negatives"""
    lr: PositiveFloat = 0.12
    """initial learning rate, for SGD; the paper uses LARS"""
    weight_decay: NonNegativeFloat = 1e-6
    """weight decay, on all parameters"""
    warmup_epochs: NonNegativeFloat = 10.0
    """epochs in which the learning rate grows linearly from zero"""
    eval_every: PositiveInt = 10
    """epochs between two kNN evaluations; the last epoch is always evaluated"""
    temperature: PositiveFloat = 0.1
    """temperature of NT-Xent (0.1 for ImageNet, 0.5 for CIFAR-10)"""
    proj_hidden: PositiveInt = leaf(2048, Role.NETWORK)
    """hidden width of the projector"""
    proj_out: PositiveInt = leaf(128, Role.NETWORK)
    """dimensions of the projection"""


class SimCLR(LabelFreeStage):
    """L = NT-Xent (eq. 1) between the projections of two views, over the images of all ranks."""

    sections: ClassVar[Mapping[str, type]] = {"simclr": SimCLRConfig}
    recipe = "simclr"
    views = ("strong", "strong")
    net: Branch

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.optimization = self.config = config.section(SimCLRConfig)
        backbone = encoder(config.model.name, config.model.width, config.model.init)
        self.net = Branch(backbone, mlp(backbone.out_features, c.proj_hidden, c.proj_out))
        self.healthy_std = c.proj_out**-0.5

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        # Both views in one pass, with common batch statistics, as in the authors' code.
        z1, z2 = net(torch.cat(batch.views)).chunk(2)
        per_sample = nt_xent(z1, z2, batch.sizes, self.config.temperature)
        return {"loss": batch_mean(per_sample, batch), "feature_std": spread(z1)}
