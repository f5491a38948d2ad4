"""Data-free noisy distillation (DFND; Chen et al., Learning Student Networks in the Wild, CVPR 2021).

DFND uses no labels.  It is a baseline of MODUL (MODUL table I).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.config import Role, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval, NonNegativeFloat, PositiveFloat
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill.adaptation import NoiseAdaptation
from dist_rmd.distill.kd import kd_loss
from dist_rmd.distill.overlapped import OverlappedTeacher
from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import Encoder, encoder
from dist_rmd.models.heads import ImageClassifier as Network
from dist_rmd.models.heads import frozen_classifier
from dist_rmd.stages._mixing import mix
from dist_rmd.stages._student import StudentConfig, score_images
from dist_rmd.stages.base import Batches, ClassifierStage, DataInfo, batch_mean

__all__ = ["DFND"]

ADAPTATION_LR = 1e-3  # of Adam


@dataclass(frozen=True)
class DFNDConfig:
    """Stage `dfnd`."""

    keep: PositiveFloat = 1.0
    """share of the images that are learned from: the images that the teacher predicts most surely"""
    accuracy: ClosedUnitInterval | None = None
    """how often the teacher is taken to be right, the diagonal of the noise adaptation matrix; when null the teacher's
    accuracy on the test images, as in the authors' code"""
    temperature: PositiveFloat = 4.0
    """T of the distillation"""
    mixup: NonNegativeFloat = leaf(0.0, Role.RESULT, added=True)
    """delta: every image is mixed with another image of its batch, with a weight from Beta(delta, delta), and the
    teacher sees the mixed image.  0: no mixup"""

    def __post_init__(self) -> None:
        if self.keep > 1:
            raise ConfigError(f"dfnd.keep={self.keep} must be at most 1, which is all images")


class Adapted(Network):
    """A classifier of images N x 3 x S x S -> (logits N x C, log probabilities N x C of the teacher's predictions)."""

    def __init__(self, encoder: Encoder, classes: int, accuracy: float):
        super().__init__(encoder, classes)
        self.adaptation = NoiseAdaptation(classes, accuracy)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, _ = super().forward(images)
        return logits, self.adaptation(logits)


class DFND(ClassifierStage):
    """L = T^2 KL(teacher || student) + NLL of the teacher's prediction under log(softmax(student) Q).

    The frozen teacher sees the same view as the student.  The matrix Q is learned (NoiseAdaptation).
    """

    sections: ClassVar[Mapping[str, type]] = {"student": StudentConfig, "dfnd": DFNDConfig}
    recipe = "student"
    labels = "none"
    net: Adapted

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        return ("teacher",)

    @classmethod
    def uses_scores(cls, config: StageConfig) -> bool:
        return config.section(DFNDConfig).accuracy is None

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.config = config.section(DFNDConfig)
        self.optimization = config.section(StudentConfig)
        self.draws = config.seed
        accuracy = measured_accuracy(inputs["teacher"]["scores"]) if c.accuracy is None else c.accuracy
        self.net = Adapted(encoder(config.model.name, config.model.width, config.model.init), data.classes, accuracy)
        self.teacher = frozen_classifier(inputs["teacher"])

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    def param_groups(self) -> list[dict[str, Any]]:
        net = self.net
        return [
            {"params": [*net.encoder.parameters(), *net.head.parameters()]},
            {
                "params": list(net.adaptation.parameters()),
                "optimizer": "adam",
                "lr": ADAPTATION_LR,
                "constant_lr": True,
            },
        ]

    def prepare(self, source: Loaders, labels: LabelView) -> None:
        """Choose the images that the teacher predicts most surely in their plain view.

        Raises ConfigError if dfnd.keep leaves less than one batch.
        """
        count = round(self.config.keep * len(labels))
        if count < self.optimization.batch_size:
            raise ConfigError(
                f"dfnd.keep={self.config.keep} leaves {count} of {len(labels)} images, less than one batch of "
                f"student.batch_size={self.optimization.batch_size}",
                agreed=True,
            )
        if count < len(labels):
            entropy = score_images(source, labels, self._uncertainty, lambda share: None).cpu().numpy()
            labels = labels.part(np.sort(entropy.argsort(kind="stable")[:count]))
        self.chosen = labels

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        """Views of the chosen images."""
        return super().batches(source, self.chosen, seed)

    def _uncertainty(self, images: Tensor, given: Tensor) -> Tensor:
        """Cross entropy between the teacher's output and the teacher's own prediction -> b values >= 0."""
        logits, _ = self.teacher(images)
        return -logits.double().log_softmax(dim=1).amax(dim=1)

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (view,) = mix(batch, self.config.mixup, self.draws).views
        lesson = OverlappedTeacher(self.teacher, view)
        logits, adapted = net(view)
        targets, _ = lesson.result()
        distilled = batch_mean(kd_loss(logits, targets, self.config.temperature), batch)
        named = batch_mean(F.nll_loss(adapted, targets.argmax(dim=1), reduction="none"), batch)
        return {"loss": distilled + named, "loss_kd": distilled.detach(), "loss_adapted": named.detach()}

    def artefact(self) -> dict[str, Any]:
        """adaptation: the matrix Q, C x C."""
        return {**super().artefact(), "adaptation": self.net.adaptation.matrix().detach()}


def measured_accuracy(scores: list[dict[str, float]]) -> float:
    """Accuracy of the teacher's last epoch on the test images, 0..1.  Raises ConfigError if none was measured."""
    measured = [score["test/top1"] for score in scores if "test/top1" in score]
    if not measured:
        raise ConfigError(
            "dfnd.accuracy=null is the accuracy that the teacher was measured to have, but its artefact says none: "
            "give dfnd.accuracy",
            agreed=True,
        )
    return measured[-1] / 100
