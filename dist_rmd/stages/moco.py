"""Representations without labels: MoCo v2 (He et al. 2020, arXiv:1911.05722; Chen et al. 2020, arXiv:2003.04297)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.config import Optimization, Role, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distributed.collectives import all_gather_rows
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import mlp
from dist_rmd.stages._label_free import Branch, MomentumStage, spread, wide
from dist_rmd.stages.base import DataInfo, batch_mean

__all__ = ["MoCo"]


@dataclass(frozen=True)
class MoCoConfig(Optimization):
    """Stage `moco`: representations without labels (MoCo v2, Chen et al. 2020); its constants are those of ImageNet."""

    epochs: PositiveInt = 200
    """passes over the training images"""
    batch_size: PositiveInt = 256
    """images per optimizer step over all ranks (the global batch)"""
    lr: PositiveFloat = 0.03
    """initial learning rate"""
    weight_decay: NonNegativeFloat = 1e-4
    """weight decay, on all parameters"""
    eval_every: PositiveInt = 10
    """epochs between two kNN evaluations; the last epoch is always evaluated"""
    K: PositiveInt = 65536
    """keys in the queue, the negatives of every query"""
    m: ClosedUnitInterval = 0.999
    """what stays of the key encoder after each step"""
    T: PositiveFloat = 0.2
    """temperature of the contrast"""
    proj_hidden: PositiveInt = leaf(2048, Role.NETWORK)
    """hidden width of the projector"""
    proj_out: PositiveInt = leaf(128, Role.NETWORK)
    """dimensions of queries and keys"""


class MoCo(MomentumStage):
    """L = -log(exp(q . k / T) / (exp(q . k / T) + sum_n exp(q . n / T))), n over the keys in the queue (MoCo, eq. 1).

    The query q is the network's projection of one view, the key k the momentum encoder's of the other, both of unit
    length.  The keys of all ranks enter the queue in the order of the global batch, the newest first.

    The momentum encoder normalises by moving averages of the network's running statistics (EMAN, Cai et al. 2021,
    https://arxiv.org/abs/2101.08482): keys depend on no other image of the batch, so that none can be told by shared
    statistics.  The authors shuffle images among GPUs to this end, by which the result depends on the number of GPUs.
    """

    sections: ClassVar[Mapping[str, type]] = {"moco": MoCoConfig}
    recipe = "moco"
    views = ("strong", "strong")
    net: Branch

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.optimization = self.config = config.section(MoCoConfig)
        backbone = encoder(config.model.name, config.model.width, config.model.init)
        self.net = Branch(backbone, mlp(backbone.out_features, c.proj_hidden, c.proj_out))
        self.memory = {"queue": F.normalize(torch.randn(c.K, c.proj_out))}
        self.follow(c.m, c.epochs * (data.images // c.batch_size))
        self.healthy_std = c.proj_out**-0.5

    def kept(self, step: int) -> float:
        """Return m, at every step."""
        return self.momentum

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        query, other = batch.views
        with torch.no_grad():
            k = F.normalize(wide(self.target(other)))  # b x D
        q = F.normalize(wide(net(query)))  # b x D
        queue = self.memory["queue"]
        with torch.autocast(q.device.type, enabled=False):
            # A copy: the backward pass needs the queue as it was.
            logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.clone().T], dim=1)  # b x (1 + K)
            first = torch.zeros(len(q), dtype=torch.int64, device=q.device)
            per_sample = F.cross_entropy(logits / self.config.T, first, reduction="none")
        queue.copy_(torch.cat([all_gather_rows(k, batch.sizes), queue])[: len(queue)])
        return {"loss": batch_mean(per_sample, batch), "feature_std": spread(q)}
