"""First stage of MODUL: divides a noisy set into clean, closed-set and open-set images (MODUL sec. IV-A)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dist_rmd.config import Role, StageConfig, leaf
from dist_rmd.config.key_types import NonNegativeInt, PositiveFloat, PositiveInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill import division as division_of
from dist_rmd.distill.division import CLOSED, SETS, refined_labels, subjective_logic_loss
from dist_rmd.errors import ConfigError
from dist_rmd.models.heads import frozen_classifier
from dist_rmd.stages._student import score_images
from dist_rmd.stages.base import ComputationStage, DataInfo

__all__ = ["Division"]


@dataclass(frozen=True)
class DivisionConfig:
    """Stage `division`: by the teacher's subjective-logic loss of every given label (docs/modul.md)."""

    seed: NonNegativeInt | None = leaf(None, Role.SEED)
    """seed of the mixture's starts (null: the run's seed)"""
    evidence: Literal["relu", "softplus", "exp"] = "relu"
    """what turns the teacher's logits into evidence"""
    logit_scale: PositiveFloat = 1.0
    """factor of the logits before they become evidence"""
    scaling: Literal["minmax", "percentile", "per_class", "none"] = "minmax"
    """how losses come to 0..1 before the thresholds: by the least and the largest of the set; by its percentiles 0.1
    and 99.9; by the least and the largest of each given label; or not at all"""
    clean: float = 0.3
    """components of the mixture with a mean of at most this are clean"""
    closed: float = 0.9
    """components with a mean of at least this are closed-set noise; components between are open-set noise"""
    thresholds: Literal["fixed", "valleys"] = leaf("fixed", Role.RESULT, added=True)
    """fixed: `clean` and `closed`; valleys: the two deepest valleys of the mixture's density, whatever they are"""
    components: PositiveInt = 20
    """Gaussians of the mixture"""
    reg_covar: PositiveFloat = 5e-4
    """least variance of a Gaussian"""
    n_init: PositiveInt = 5
    """starts of the fit, of which the best is taken"""
    max_iter: PositiveInt = 100
    """iterations of each start at most"""
    tol: PositiveFloat = 1e-3
    """gain of the mean log likelihood below which the fit has converged"""
    probability: Literal["responsibilities", "density"] = "responsibilities"
    """of the three sets: shares of the mixture's density, or its parts as the paper prints them, which may all be 0"""
    undecided: Literal["nearest", "open"] = "nearest"
    """an image with no single most probable set goes to the set of the nearest component, or to the open set"""
    force_extremes: bool = False
    """the least loss is clean and the largest closed, whatever the mixture says"""

    def __post_init__(self) -> None:
        if not self.clean < self.closed:
            raise ConfigError(f"division.clean={self.clean} must be below division.closed={self.closed}")


class Division(ComputationStage):
    """Fits a Gaussian mixture to the teacher's loss of every image, and assigns each image to one of three sets.

    All ranks together compute the loss of each image once.  Images of the closed set get the teacher's label (eq. 6).
    """

    sections: ClassVar[Mapping[str, type]] = {"division": DivisionConfig}
    recipe = "division"

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        return ("teacher",)

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.config = config.section(DivisionConfig)
        self.mixture_seed = config.seed
        self.teacher = frozen_classifier(inputs["teacher"])

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    def compute(self, source: Loaders, labels: LabelView, proceed: Callable[[float], None]) -> dict[str, float]:
        c = self.config

        def judge(images: Tensor, given: Tensor) -> Tensor:
            logits, _ = self.teacher(images)
            loss = subjective_logic_loss(logits, given, c.evidence, c.logit_scale)
            return torch.stack([loss, refined_labels(logits).double()], dim=1)

        losses, predicted = score_images(source, labels, judge, proceed).cpu().numpy().T
        found = division_of.divide(
            losses, labels.given,
            scaling=c.scaling, clean=c.clean, closed=c.closed, thresholds=c.thresholds, components=c.components,
            reg_covar=c.reg_covar, n_init=c.n_init, max_iter=c.max_iter, tol=c.tol, seed=self.mixture_seed,
            probability=c.probability,
            undecided=c.undecided, force_extremes=c.force_extremes,
        )  # fmt: skip
        self._keep(labels, losses, predicted.astype(np.int64), found)
        return _metrics(found, labels)

    def pretend(self, labels: LabelView) -> None:
        """Assign a third of the images to each set."""
        losses = np.arange(len(labels)) % 3 / 2
        found = division_of.divide(losses, components=3, n_init=1)
        self._keep(labels, losses, labels.given, found)

    def _keep(self, labels: LabelView, losses: Any, predicted: Any, found: division_of.DivisionResult) -> None:
        mixture = found.mixture
        self._artefact = {
            "indices": torch.from_numpy(labels.indices),
            "given": torch.from_numpy(labels.given),
            "predicted": torch.from_numpy(predicted),
            "sets": torch.from_numpy(found.set),
            "labels": torch.from_numpy(np.where(found.set == CLOSED, predicted, labels.given)),
            "losses": torch.from_numpy(np.ascontiguousarray(losses)),
            "scaled": torch.from_numpy(found.losses),
            "probability": torch.from_numpy(found.probability),
            "mixture": {
                name: torch.from_numpy(np.ascontiguousarray(getattr(mixture, name)))
                for name in ("weights", "means", "variances", "set")
            },
            "thresholds": list(found.thresholds),
            "evidence": self.config.evidence,
            "scaling": self.config.scaling,
            "counts": found.counts,
            "undecided": found.undecided,
            "underflows": found.underflows,
            "narrow": found.narrow,
            "converged": mixture.converged,
        }

    @classmethod
    def summary(cls, metrics: Mapping[str, float]) -> str:
        counted = ", ".join(f"{metrics[f'division/{name}']:,.0f} {name}" for name in SETS)
        undecided = metrics["division/undecided"]
        return f"{counted}, {undecided:,.0f} of them undecided" if undecided else counted

    def artefact(self) -> dict[str, Any]:
        return self._artefact


def _metrics(found: division_of.DivisionResult, labels: LabelView) -> dict[str, float]:
    """Sizes of the sets; if the true labels are known, also precision and recall of each set that has images, in %."""
    metrics = {f"division/{name}": float(count) for name, count in found.counts.items()}
    metrics["division/undecided"] = float(found.undecided)
    if labels.types is None:
        return metrics
    quality = division_of.quality(found.set, labels.types)
    for measure in ("precision", "recall"):
        for name, value in zip(SETS, getattr(quality, measure), strict=True):
            metrics |= {} if value is None else {f"division/{measure}_{name}": 100 * value}
    return metrics
