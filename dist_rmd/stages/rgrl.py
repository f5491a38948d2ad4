"""Relation-guided representation learning: RMDNet's second module (RMDNet sec. 3.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jsonargparse.typing import NonNegativeFloat
from torch import Tensor, nn

from dist_rmd.config import Config
from dist_rmd.data.batch import Batch
from dist_rmd.distill.relation import RelationLoss
from dist_rmd.models.encoder import encoder
from dist_rmd.stages.base import DataShape, batch_mean
from dist_rmd.stages.classifier import Classifier

__all__ = ["RGRL"]


@dataclass(frozen=True)
class RelationConfig:
    """The relation term of stage `rgrl` (RMDNet eq. 10, 11)."""

    teacher: Literal["simsiam", "random"] = "simsiam"
    """simsiam: the encoder of that stage; random: one that stays as initialised, the ablation without representation
    learning (RMDNet table 2, CE+RGRL)"""
    k: NonNegativeFloat = 1.0
    """K, weight of the relation loss beside the robust loss; 0 is the baseline"""
    node: NonNegativeFloat = 0.8
    """weight of node matching"""
    edge: NonNegativeFloat = 0.35
    """weight of edge matching"""
    method: Literal["auto", "gather", "gram"] = "auto"
    """how it is computed, not what: gather exchanges features, gram D x D matrices; auto takes the faster"""


class RGRL(Classifier):
    """L = robust loss + K (node ||M - I||_F + edge ||E_t - E_s||_F).

    The teacher is the frozen encoder of stage `simsiam`, or a random one.  It sees the student's view, in evaluation
    mode and without gradient; both matrices are over the pooled features of the global batch.
    """

    sections: ClassVar[Mapping[str, type]] = {**Classifier.sections, "relation": RelationConfig}

    @classmethod
    def needs(cls, config: Config) -> tuple[str, ...]:
        return ("simsiam",) if config.relation.teacher == "simsiam" else ()

    def __init__(self, config: Config, shape: DataShape, inputs: Mapping[str, Any]):
        super().__init__(config, shape, inputs)  # the student's weights are drawn first: the same as the baseline's
        self.k = config.relation.k
        self.relation = RelationLoss(config.relation.node, config.relation.edge, config.relation.method)
        self.teacher = encoder(config.model.name, config.model.width).requires_grad_(False).eval()
        if config.relation.teacher == "simsiam":
            self.teacher.load_state_dict(inputs["simsiam"]["encoder"])

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (view,) = batch.views
        logits, features = net(view)
        with torch.no_grad():
            targets = self.teacher(view)
        task = batch_mean(self.loss(logits, batch.labels), batch)
        relation = self.relation(targets, features, batch.sizes)
        return {
            "loss": task + self.k * relation.loss,
            "loss_task": task.detach(),
            "loss_node": relation.node,
            "loss_edge": relation.edge,
        }
