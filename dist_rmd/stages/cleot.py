"""CLEOT, entropic optimal transport between noisy labels and predictions (Damodaran et al. 2020, arXiv:1810.01163).

We found no code of CLEOT, and do not know the paper's constants.  The stage is our reading: the joint transport of the
same authors' DeepJDOT (Damodaran et al. 2018, https://arxiv.org/abs/1803.10081) within a batch, with an entropy term.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dist_rmd.config import StageConfig
from dist_rmd.config.key_types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill.sinkhorn import column_error, transport_plan
from dist_rmd.distributed.collectives import all_gather_rows, gather_rows, rank
from dist_rmd.losses.ce import CE
from dist_rmd.stages._task import Seen, TaskStage
from dist_rmd.stages.base import DataInfo

__all__ = ["CLEOT"]

MISSED = 0.05
"""error of the transport plan, as a share of an image's mass, above which the user is warned"""


@dataclass(frozen=True)
class CLEOTConfig:
    """Stage `cleot` (our reading; no constants are published); optimizer and schedule are those of section `task`."""

    alpha: NonNegativeFloat = 0.01
    """weight of the squared distance between features, beside the cross entropy (DeepJDOT's)"""
    reg: PositiveFloat = 0.1
    """lambda, weight of the entropy, in medians of the cost"""
    iterations: PositiveInt = 50
    """of Sinkhorn's algorithm"""
    warmup: NonNegativeInt = 10
    """epochs of cross entropy before the transport"""


class CLEOT(TaskStage):
    """L = sum_ij gamma_ij (alpha |g_i - g_j|^2 + CE(y_i, f_j)) over the global batch, our reading of CLEOT.

    gamma, without gradient, is the entropic transport plan between the images with their given labels (g_i, y_i) and
    the same images with their predictions (g_j, f_j), both of uniform mass.  So every label is learned mostly by images
    with similar features.
    """

    sections: ClassVar[Mapping[str, type]] = {**TaskStage.sections, "cleot": CLEOTConfig}

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        super().__init__(config, data, inputs)
        self.config = config.section(CLEOTConfig)
        self.ce = CE()
        self.told = False

    def terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        if batch.epoch < self.config.warmup:
            return {"task": self.ce(seen.logits, batch.labels)}
        with torch.autocast(seen.logits.device.type, enabled=False):
            features, logits = (x.float() if x.itemsize < 4 else x for x in (seen.features, seen.logits))
            features, logits = gather_rows(features, batch.sizes), gather_rows(logits, batch.sizes)
            labels = all_gather_rows(batch.labels, batch.sizes)
            cost = self.config.alpha * squared_distances(features) - logits.log_softmax(dim=1).T[labels]  # B x B
            share = torch.full((len(cost),), 1 / len(cost), dtype=cost.dtype, device=cost.device).log()
            reg = self.config.reg * cost.detach().median()
            gamma = transport_plan(share, share, cost.detach(), reg, self.config.iterations)
            own = torch.arange(len(cost), device=cost.device).split(list(batch.sizes))[rank()]
            # Cost of the mass that leaves each image's label, times B: the mean over the global batch is then the sum.
            moved = len(cost) * (gamma * cost).sum(dim=1)
            return {"task": moved[own], "sinkhorn_error": column_error(gamma, share)[own]}

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        missed = metrics.get("train/sinkhorn_error", 0.0)
        if missed > MISSED and not self.told:
            self.told = True  # once: it stays so
            return (
                f"Sinkhorn has not converged: images are missed by {missed:.1%} of their mass; "
                "raise cleot.iterations or cleot.reg"
            )
        return super().warning(metrics)


def squared_distances(rows: Tensor) -> Tensor:
    """Squared distances |x_i - x_j|^2 between B x D rows -> B x B >= 0."""
    squares = rows.square().sum(dim=1)
    return (squares[:, None] + squares - 2 * rows @ rows.T).clamp_min(0)
