"""Wasserstein adversarial regularisation (Damodaran et al. 2021, https://arxiv.org/abs/1904.03936)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dist_rmd.config import Role, StageConfig, leaf
from dist_rmd.config.key_types import FilePath, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from dist_rmd.data.labels.view import read_arrays
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill.adversarial import random_directions, steepest
from dist_rmd.distill.sinkhorn import missed_mass, transport_plan
from dist_rmd.distributed.collectives import rank
from dist_rmd.errors import DataError
from dist_rmd.losses.ce import CE
from dist_rmd.models.statistics import statistics_kept
from dist_rmd.stages._mixing import Mixed
from dist_rmd.stages._task import Seen, TaskStage
from dist_rmd.stages.base import DataInfo, batch_mean

__all__ = ["WAR"]


MISSED = 0.05
"""share of the mass by which a transport plan misses its columns, above which the user is warned"""


@dataclass(frozen=True)
class WARConfig:
    """Stage `war` (constants of the authors' code for CIFAR); optimizer and schedule are those of section `task`."""

    beta: NonNegativeFloat = 10.0
    """weight of the regularisation"""
    warmup: NonNegativeInt = 15
    """epochs of cross entropy alone before the regularisation"""
    eps: PositiveFloat = 0.02
    """length of the step in a normalised image: 0.005 of the authors' images, whose standard deviation is about 1/4"""
    xi: PositiveFloat = 1e-6
    """length of the first, random step, from which the direction is found"""
    reg: PositiveFloat = 0.05
    """lambda, weight of the entropy of the transport between two predictions"""
    iterations: PositiveInt = 20
    """of Sinkhorn's algorithm"""
    vectors: FilePath | None = leaf(None, Role.PLACE)
    """.npy, or .npz with an array `embed`: a row for each class, such as a word vector of its name.  Moving mass costs
    exp(-distance / largest distance), so that similar classes are kept apart most; when null all costs are 1"""


class WAR(TaskStage):
    """L = CE + beta OT(p(x + r), p(x)), where r has length eps and the direction in which predictions change most.

    OT is the cost of entropic transport between two predictions; p(x) has no gradient.  One step of power iteration
    finds r.  The images x + r do not change the running statistics of batch normalisation.
    """

    sections: ClassVar[Mapping[str, type]] = {**TaskStage.sections, "war": WARConfig}
    sees_others = True

    @classmethod
    def files(cls, config: StageConfig) -> dict[str, str]:
        vectors = config.section(WARConfig).vectors
        return {} if vectors is None else {"war.vectors": vectors}

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        super().__init__(config, data, inputs)
        c = self.config = config.section(WARConfig)
        self.weights = {"task": 1.0, "smooth": c.beta}
        cost = equal_costs(data.classes) if c.vectors is None else similarity(Path(c.vectors), data.classes)
        self.memory = {"cost": cost.float()}  # constant; in `memory`, so that the device follows the network's
        self.ce = CE()
        self.told = False

    def look(self, net: nn.Module, mixed: Mixed) -> Seen:
        (images,) = mixed.views
        if mixed.own.epoch < self.config.warmup or not self.config.beta:
            return Seen(*net(images))
        return Seen(*net(images, self._moved(images, mixed.own)))

    def terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        return {"task": self.ce(seen.logits, batch.labels)}

    def label_free(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        if seen.others is None:
            return {}
        plan, log_q = self._plan(seen.others, seen.logits.detach())
        return {"smooth": self._cost(plan), "sinkhorn_error": missed_mass(plan, log_q)}

    def _moved(self, images: Tensor, batch: Batch) -> Tensor:
        """The adversarial images x + r, without gradient."""
        start = random_directions(images, batch.sizes, rank(), self.draws, batch.epoch, batch.number)
        with statistics_kept(self.net):
            with torch.no_grad():
                said = self.net(images)[0]

            def distance(step: Tensor) -> Tensor:
                plan, _ = self._plan(self.net(images + step)[0], said)
                return batch_mean(self._cost(plan), batch)

            return images + self.config.eps * steepest(distance, start, self.config.xi)

    def _plan(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The transport plan from the predictions of `logits` to those of `target`, b x C each -> b x C x C.

        Also returns the logarithms of the latter, b x C.
        """
        logits, target = (x.float() if x.itemsize < 4 else x for x in (logits, target))
        log_p, log_q = logits.log_softmax(dim=1), target.log_softmax(dim=1)
        return transport_plan(log_p, log_q, self.memory["cost"], self.config.reg, self.config.iterations), log_q

    def _cost(self, plan: Tensor) -> Tensor:
        """<P, C> of each of b plans, without the entropy term -> b values >= 0."""
        return (plan * self.memory["cost"]).sum(dim=(1, 2))

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        missed = metrics.get("train/sinkhorn_error", 0.0)
        if self.told or missed <= MISSED:
            return super().warning(metrics)
        self.told = True  # once: it stays so
        return f"Sinkhorn has not converged: {missed:.1%} of the mass is missed; raise war.iterations or war.reg"


def equal_costs(classes: int) -> Tensor:
    """Costs C x C float64 of moving mass between classes: 1, and 0 on the diagonal."""
    return 1 - torch.eye(classes, dtype=torch.float64)


def similarity(file: Path, classes: int) -> Tensor:
    """Costs C x C float64 from the class vectors v in `file`: exp(-|v_i - v_j| / largest distance), 0 on the diagonal.

    Raises DataError if the file does not hold a vector for each class.
    """
    content = read_arrays(file)
    vectors = content.get("embed") if isinstance(content, dict) else content
    if vectors is None:
        raise DataError(f"{file}: no array `embed` in it, a row for each class")
    if vectors.ndim != 2 or len(vectors) != classes or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
        raise DataError(
            f"{file}: {vectors.dtype} of shape {vectors.shape}, not a finite vector for each of {classes} classes"
        )
    points = torch.from_numpy(np.asarray(vectors, np.float64))
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    if not distances.max() > 0:
        raise DataError(f"{file}: all vectors are the same, so no two classes can be told apart")
    return (-distances / distances.max()).exp().fill_diagonal_(0)
