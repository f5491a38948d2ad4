"""Early-learning regularisation (Liu et al. 2020, https://arxiv.org/abs/2007.00151): a baseline with a memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat
from torch import Tensor, nn

from dist_rmd.config import StageConfig
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distributed.collectives import write_rows
from dist_rmd.losses.ce import CE
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier as Network
from dist_rmd.stages.base import ClassifierStage, DataInfo, batch_mean, fitted
from dist_rmd.stages.classifier import TaskConfig

__all__ = ["ELR"]

LEAST = 1e-4
"""probabilities are kept this far from 0 and 1, as in the authors' code"""


@dataclass(frozen=True)
class ELRConfig:
    """Stage `elr` (Liu et al. 2020, eq. 6 and 9); optimizer and schedule are those of section `task`."""

    lam: NonNegativeFloat = 3.0
    """lambda, weight of the regularisation; 0 is cross entropy"""
    beta: ClosedUnitInterval = 0.7
    """what stays of an image's target from one epoch to the next"""


class ELR(ClassifierStage):
    """L = CE + lambda mean log(1 - <t_i, p_i>), where t_i <- beta t_i + (1 - beta) p_i is a target for each image.

    A target is the moving average of what the network has said of the image, one step an epoch, without gradient, with
    p_i scaled to sum 1 (eq. 9).
    """

    sections: ClassVar[Mapping[str, type]] = {"task": TaskConfig, "elr": ELRConfig}
    recipe = "task"

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.config, self.optimization = config.section(ELRConfig), config.section(TaskConfig)
        self.net = Network(encoder(config.model.name, config.model.width), data.classes)
        self.memory = {"targets": torch.zeros(data.images, data.classes)}
        self.ce = CE()

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (view,) = batch.views
        logits, _ = net(view)
        p = (logits.float() if logits.itemsize < 4 else logits).softmax(dim=1).clamp(LEAST, 1 - LEAST)  # b x C
        targets, said, beta = self.memory["targets"], p.detach(), self.config.beta
        target = beta * targets[batch.rows] + (1 - beta) * said / said.sum(dim=1, keepdim=True)
        write_rows(targets, batch.rows, target, batch.sizes)
        task = batch_mean(self.ce(logits, batch.labels), batch)
        early = batch_mean((1 - (target * p).sum(dim=1)).log(), batch)
        return {
            "loss": task + self.config.lam * early,
            "loss_task": task.detach(),
            "loss_early": early.detach(),
            **fitted(logits, batch),
        }
