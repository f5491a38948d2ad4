"""Refines the label of every training image by its nearest neighbours, and weights the image (not in the papers)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dist_rmd.config import Role, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.errors import DataError
from dist_rmd.models.encoder import frozen_encoder
from dist_rmd.stages._label_free import LabelFree
from dist_rmd.stages._student import frozen_teacher, score_images
from dist_rmd.stages.base import ComputationStage, DataInfo
from dist_rmd.suspects.scores import suspicion

__all__ = ["Relabel"]


@dataclass(frozen=True)
class RelabelConfig:
    """Stage `relabel`: labels by an image's neighbours, which task.relabel=true lets later stages learn."""

    student: Literal["none", "classifier", "elr"] = "none"
    """stage whose network has a say, too, of another run (inputs.classifier=<its folder>).  The network must not have
    memorised the wrong labels: take a classifier that was trained for a few epochs, or elr"""
    student_weight: ClosedUnitInterval = 0.5
    """weight of the student's probabilities; the probabilities from the neighbours have 1 - student_weight"""
    teacher: LabelFree = leaf("simsiam", Role.RESULT, added=True)
    """the stage in whose features images are neighbours"""


class Relabel(ComputationStage):
    """Estimates class probabilities p_i of every image from the labels of images with similar features.

    The refined label is argmax p_i, the image's weight max p_i.  dist_rmd.suspects.scores computes p_i from the labels
    of the nearest neighbours (leave-one-out), out-of-fold Gaussians of the classes, the given label, and an estimate of
    how often each class is given as each other class.  No true label is used.
    """

    sections: ClassVar[Mapping[str, type]] = {"relabel": RelabelConfig}

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        c = config.section(RelabelConfig)
        return (c.teacher,) if c.student == "none" else (c.teacher, c.student)

    @classmethod
    def seed(cls, config: StageConfig) -> int:
        """Return 0: the stage draws nothing."""
        return 0

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.config = config.section(RelabelConfig)
        self.classes = data.classes
        self.teacher = frozen_encoder(inputs[self.config.teacher])
        student = self.config.student
        self.student = None if student == "none" else frozen_teacher(inputs[student])

    def frozen(self) -> list[nn.Module]:
        return [self.teacher, *([] if self.student is None else [self.student])]

    def compute(self, source: Loaders, labels: LabelView, proceed: Callable[[float], None]) -> dict[str, float]:
        def judge(images: Tensor, given: Tensor) -> Tensor:
            """b x (D + C) features and the student's probabilities; b x D features without a student."""
            parts = [self.teacher(images)]
            if self.student is not None:
                parts.append(self.student(images)[0].softmax(dim=1))
            return torch.cat(parts, dim=1)

        rows = score_images(source, labels, judge, proceed).float()
        features, said = rows.tensor_split([self.teacher.out_features], dim=1)
        given = torch.from_numpy(labels.given).to(rows.device)
        try:
            posterior = suspicion(features, given, self.classes).posterior
        except ValueError as error:
            raise DataError(f"stage relabel: {error}") from None
        if self.student is not None:
            posterior = posterior.lerp(said, self.config.student_weight)
        weights, refined = posterior.cpu().max(dim=1)
        self._keep(labels, refined, weights)
        return self._metrics(labels, refined.numpy())

    def pretend(self, labels: LabelView) -> None:
        """Keep every given label, with weight 1."""
        self._keep(labels, torch.from_numpy(labels.given), torch.ones(len(labels)))

    def _keep(self, labels: LabelView, refined: Tensor, weights: Tensor) -> None:
        self._artefact = {
            "indices": torch.from_numpy(labels.indices),
            "given": torch.from_numpy(labels.given),
            "labels": refined,
            "weights": weights,
        }

    @classmethod
    def summary(cls, metrics: Mapping[str, float]) -> str:
        said = f"{metrics['relabel/changed']:.1f} % of the labels changed"
        if "relabel/right" not in metrics:
            return said
        return f"{said}; {metrics['relabel/right']:.1f} % are right, {metrics['relabel/right_given']:.1f} % were"

    def artefact(self) -> dict[str, Any]:
        """indices, given, labels: N int64, positions of the images in the beton, given labels and refined labels;
        weights: N float32, 0..1, probabilities of the refined labels."""
        return self._artefact

    def _metrics(self, labels: LabelView, refined: Any) -> dict[str, float]:
        """Percent of changed labels; if the true labels are known, also of correct labels before and after."""
        found = {"relabel/changed": 100 * float(np.mean(refined != labels.given))}
        if labels.true is not None:
            found["relabel/right_given"] = 100 * float(np.mean(labels.given == labels.true))
            found["relabel/right"] = 100 * float(np.mean(refined == labels.true))
        return found
