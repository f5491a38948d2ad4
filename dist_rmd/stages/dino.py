"""Representations without labels: DINO (Caron et al. 2021, https://arxiv.org/abs/2104.14294)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.config import Optimization, Role, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distributed.collectives import all_reduce_sum
from dist_rmd.models.encoder import encoder
from dist_rmd.models.statistics import batch_statistics
from dist_rmd.stages._label_free import MomentumStage, spread, wide
from dist_rmd.stages.base import DataInfo, batch_mean

__all__ = ["DINO"]

GLOBAL = 2
"""number of global crops, which alone the teacher sees"""


@dataclass(frozen=True)
class DINOConfig(Optimization):
    """Stage `dino`: representations without labels (Caron et al. 2021); its constants are those of ImageNet."""

    epochs: PositiveInt = 800
    """passes over the training images"""
    batch_size: PositiveInt = 256
    """images per optimizer step over all ranks (the global batch)"""
    lr: PositiveFloat = 0.03
    """initial learning rate, that of the authors' ResNet-50 with SGD"""
    weight_decay: NonNegativeFloat = 1e-4
    """weight decay, on all parameters"""
    warmup_epochs: NonNegativeFloat = 10.0
    """epochs in which the learning rate grows linearly from zero"""
    eval_every: PositiveInt = 10
    """epochs between two kNN evaluations; the last epoch is always evaluated"""
    local_crops_number: NonNegativeInt = 8
    """local crops of each image, of half the side, beside the two global ones"""
    momentum_teacher: ClosedUnitInterval = 0.996
    """what stays of the teacher after the first step; the share grows to 1 by a cosine"""
    student_temp: PositiveFloat = 0.1
    """temperature of the student's outputs"""
    warmup_teacher_temp: PositiveFloat = 0.04
    """first temperature of the teacher's outputs"""
    teacher_temp: PositiveFloat = 0.07
    """temperature of the teacher's outputs after the warm-up"""
    warmup_teacher_temp_epochs: NonNegativeInt = 30
    """epochs in which the teacher's temperature grows linearly"""
    center_momentum: ClosedUnitInterval = 0.9
    """what stays of the centre from one step to the next"""
    freeze_last_layer: NonNegativeInt = 1
    """epochs at the start in which the last layer learns nothing"""
    out_dim: PositiveInt = leaf(65536, Role.NETWORK)
    """dimensions of the outputs"""
    proj_hidden: PositiveInt = leaf(2048, Role.NETWORK)
    """hidden width of the projector"""
    bottleneck_dim: PositiveInt = leaf(256, Role.NETWORK)
    """dimensions of the projection, before the last layer"""
    use_bn_in_head: bool = leaf(False, Role.NETWORK)
    """batch normalisation in the projector, before each GELU"""


class Prototypes(nn.Module):
    """DINO's last layer, N x D -> N x K: cosines of the rows and K unit vectors, which are learnt."""

    def __init__(self, features: int, out: int):
        super().__init__()
        self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(out, features), std=0.02))

    def forward(self, rows: Tensor, learns: bool) -> Tensor:
        # The gradient of a layer that does not learn is 0 rather than missing, as DDP needs.  Weight decay then changes
        # lengths alone, which nothing depends on.
        weight = self.weight if learns else self.weight.detach() + 0 * self.weight
        return F.linear(F.normalize(rows), F.normalize(weight))


class Network(nn.Module):
    """Student or teacher: crops b x 3 x S x S, of any sizes S -> (outputs, projections), a row for each crop."""

    def __init__(self, encoder: nn.Module, projector: nn.Module, prototypes: Prototypes):
        super().__init__()
        self.encoder, self.projector, self.prototypes = encoder, projector, prototypes

    def forward(self, crops: Sequence[Tensor], learns: bool = True) -> tuple[Tensor, Tensor]:
        z = self.projector(torch.cat([self.encoder(images) for images in crops]))
        return self.prototypes(z, learns), z


class DINO(MomentumStage):
    """L = mean over pairs of a global crop g and another crop c of -P'(g) . log P(c) (eq. 3).

    P = softmax(student's output / student_temp), P' = softmax((teacher's output - centre) / teacher_temp); the centre
    is a moving average of the teacher's mean output over the images of all ranks (eq. 4).  Crops of one size pass the
    encoder together, as in the authors' code.  The result is the teacher.
    """

    sections: ClassVar[Mapping[str, type]] = {"dino": DINOConfig}
    recipe = "dino"
    net: Network

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.optimization = self.config = config.section(DINOConfig)
        self.views = ("strong",) * GLOBAL + ("local",) * c.local_crops_number
        backbone = encoder(config.model.name, config.model.width, config.model.init)
        self.net = Network(
            backbone,
            projector(backbone.out_features, c.proj_hidden, c.bottleneck_dim, c.use_bn_in_head),
            Prototypes(c.bottleneck_dim, c.out_dim),
        )
        self.memory = {"centre": torch.zeros(c.out_dim)}
        self.follow(c.momentum_teacher, c.epochs * (data.images // c.batch_size))
        self.healthy_std = c.bottleneck_dim**-0.5

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        crops = [torch.cat(batch.views[:GLOBAL])]
        if batch.views[GLOBAL:]:
            crops.append(torch.cat(batch.views[GLOBAL:]))
        with torch.no_grad(), batch_statistics(self.target):
            taught = wide(self.target(crops[:1])[0])  # 2b x K
        outputs, z = map(wide, net(crops, batch.epoch >= self.config.freeze_last_layer))
        images, centre = len(batch.indices), self.memory["centre"]
        wanted = ((taught - centre) / self.teacher_temp(batch.epoch)).softmax(dim=1).unflatten(0, (GLOBAL, images))
        said = (outputs / self.config.student_temp).log_softmax(dim=1).unflatten(0, (len(batch.views), images))
        # All pairs, less those of a crop with itself.
        pairs = (wanted.sum(dim=0) * said.sum(dim=0)).sum(dim=1) - (wanted * said[:GLOBAL]).sum(dim=(0, 2))  # b
        per_sample = -pairs / (GLOBAL * (len(batch.views) - 1))
        mean = all_reduce_sum(taught.sum(dim=0)) / (GLOBAL * sum(batch.sizes))
        centre.lerp_(mean, 1 - self.config.center_momentum)
        return {"loss": batch_mean(per_sample, batch), "feature_std": spread(z[:images])}

    def teacher_temp(self, epoch: int) -> float:
        """The teacher's temperature in an epoch."""
        c = self.config
        if epoch >= c.warmup_teacher_temp_epochs:
            return c.teacher_temp
        share = epoch / max(1, c.warmup_teacher_temp_epochs - 1)
        return c.warmup_teacher_temp + share * (c.teacher_temp - c.warmup_teacher_temp)

    def eval_nets(self) -> dict[str, nn.Module]:
        """The teacher, which is better than the student (sec. 5.1), and the student."""
        return {"": self.target, "student": self.net}


def projector(features: int, hidden: int, out: int, batchnorm: bool) -> nn.Sequential:
    """DINO's projector, N x features -> N x out: three linear layers with GELU between them."""
    modules: list[nn.Module] = []
    for width in (features, hidden):
        modules += [nn.Linear(width, hidden), *([nn.BatchNorm1d(hidden)] if batchnorm else []), nn.GELU()]
    modules.append(nn.Linear(hidden, out))
    for layer in modules:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*modules)
