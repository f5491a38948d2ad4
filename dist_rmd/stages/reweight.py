"""Importance reweighting (Liu & Tao 2016, https://arxiv.org/abs/1411.7718), with many classes as in T-Revision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dist_rmd.config import StageConfig
from dist_rmd.config.key_types import ClosedUnitInterval, PositiveFloat, PositiveInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill.transition import anchor_transition, importance
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.losses.ce import CE
from dist_rmd.stages._student import score_images
from dist_rmd.stages._task import Seen, TaskConfig, TaskStage
from dist_rmd.stages.base import DataInfo

__all__ = ["Reweight"]


@dataclass(frozen=True)
class ReweightConfig:
    """Stage `reweight`; optimizer and schedule are those of section `task`."""

    warmup: PositiveInt = 20
    """epochs of cross entropy, after which the transition matrix is estimated"""
    drop: ClosedUnitInterval = 0.03
    """share of the images, the most surely predicted ones of a class, that are skipped as outliers (0 for CIFAR-100)"""
    most: PositiveFloat = 10.0
    """largest weight of an image"""

    def __post_init__(self) -> None:
        if self.drop == 1:
            raise ConfigError("reweight.drop=1 passes all images over: choose less, such as 0.03")


class Reweight(TaskStage):
    """L = mean w_i CE_i, w = p_y / (T^T p)_y: probability that y is the true label over probability of y being given.

    The network first learns the given labels (w = 1).  Then the transition matrix T is estimated: row i of T is the
    prediction for the image that is most surely labelled i, apart from outliers.  For this all ranks together look at
    every image once, in the plain view.
    """

    sections: ClassVar[Mapping[str, type]] = {**TaskStage.sections, "reweight": ReweightConfig}

    @classmethod
    def check(cls, config: StageConfig) -> None:
        warmup, epochs = config.section(ReweightConfig).warmup, config.section(TaskConfig).epochs
        if warmup >= epochs:
            raise ConfigError(f"reweight.warmup={warmup} leaves none of task.epochs={epochs} to learn with weights")

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        super().__init__(config, data, inputs)
        self.config, self.classes = config.section(ReweightConfig), data.classes
        self.memory = {
            "epochs": torch.zeros(1, dtype=torch.int64),
            "transition": torch.eye(data.classes, dtype=torch.float64),
        }
        self.ce = CE()

    def prepare(self, source: Loaders, labels: LabelView) -> None:
        super().prepare(source, labels)
        if missing := sorted({*range(self.classes)} - {*np.unique(self.learned.given).tolist()}):
            raise DataError(
                f"no image is labelled {missing[0]} (of classes 0..{self.classes - 1}), so nobody can tell what labels "
                "that class is given: reweight needs an image of each"
            )

    def start_epoch(self) -> None:
        if self.memory["epochs"].item() == self.config.warmup:
            self.net.eval()
            posteriors = score_images(
                self.source, self.learned, lambda images, _: self.net(images)[0].double().softmax(1), lambda share: None
            )
            self.net.train()
            self.memory["transition"].copy_(anchor_transition(posteriors, self.config.drop))
        self.memory["epochs"] += 1

    def terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        losses = self.ce(seen.logits, batch.labels)
        if batch.epoch < self.config.warmup:
            return {"task": losses}
        weights = importance(seen.logits, batch.labels, self.memory["transition"], self.config.most).to(losses.dtype)
        return {"task": weights * losses, "weight": weights}

    def artefact(self) -> dict[str, Any]:
        """transition: the matrix T, C x C."""
        return {**super().artefact(), "transition": self.memory["transition"]}
