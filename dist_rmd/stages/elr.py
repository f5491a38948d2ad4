"""Early-learning regularisation (Liu et al. 2020, https://arxiv.org/abs/2007.00151): a baseline with a memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dist_rmd.config import StageConfig
from dist_rmd.config.key_types import ClosedUnitInterval, NonNegativeFloat
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distributed.collectives import write_rows
from dist_rmd.losses.ce import CE
from dist_rmd.models.statistics import statistics_kept
from dist_rmd.stages._task import Seen, TaskStage
from dist_rmd.stages.base import DataInfo

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


class ELR(TaskStage):
    """L = CE + lambda mean log(1 - <t_i, p_i>), where t_i <- beta t_i + (1 - beta) p_i is a target for each image.

    A target is the moving average of what the network has said of the image, one step an epoch, without gradient, with
    p_i scaled to sum 1 (eq. 9).  Where images are mixed, targets are of what it says of them unmixed, as in ELR+.
    """

    sections: ClassVar[Mapping[str, type]] = {**TaskStage.sections, "elr": ELRConfig}

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        super().__init__(config, data, inputs)
        self.config = config.section(ELRConfig)
        self.weights = {"task": 1.0, "early": self.config.lam}
        self.memory = {"targets": torch.zeros(data.images, data.classes)}
        self.ce = CE()

    def remember(self, seen: Seen, batch: Batch, is_mixed: bool) -> None:
        logits = seen.logits
        if is_mixed:
            with torch.no_grad(), statistics_kept(self.classifier):
                logits = self.classifier(batch.views[0])[0]
        targets, beta, said = self.memory["targets"], self.config.beta, probabilities(logits.detach())
        target = beta * targets[batch.rows] + (1 - beta) * said / said.sum(dim=1, keepdim=True)
        write_rows(targets, batch.rows, target, batch.sizes)

    def terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        agreed = (self.memory["targets"][batch.rows] * probabilities(seen.logits)).sum(dim=1)
        return {"task": self.ce(seen.logits, batch.labels), "early": (1 - agreed).log()}


def probabilities(logits: Tensor) -> Tensor:
    """softmax of b x C logits in float32 or wider, within LEAST..1 - LEAST."""
    return (logits.float() if logits.itemsize < 4 else logits).softmax(dim=1).clamp(LEAST, 1 - LEAST)
