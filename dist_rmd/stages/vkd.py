"""Vanilla knowledge distillation, which MODUL is compared with: the noise in the labels is ignored (MODUL table I)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from dist_rmd.config import StageConfig
from dist_rmd.config.key_types import ClosedUnitInterval, PositiveFloat
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill.kd import kd_loss
from dist_rmd.distill.overlapped import OverlappedTeacher
from dist_rmd.losses.ce import CE
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier as Network
from dist_rmd.stages._student import StudentConfig, frozen_teacher
from dist_rmd.stages.base import ClassifierStage, DataInfo, batch_mean, fitted

__all__ = ["VKD"]


@dataclass(frozen=True)
class VKDConfig:
    """The loss of stage `vkd` (Hinton et al. 2015; the usual constants, as MODUL names none)."""

    alpha: ClosedUnitInterval = 0.1
    """weight of the cross entropy with the given labels; that of the distillation is 1 - alpha"""
    temperature: PositiveFloat = 4.0
    """T of the distillation"""


class VKD(ClassifierStage):
    """L = alpha CE(student, given label) + (1 - alpha) T^2 KL(teacher || student), over all images.

    The frozen teacher sees the student's view.
    """

    sections: ClassVar[Mapping[str, type]] = {"student": StudentConfig, "vkd": VKDConfig}
    recipe = "student"

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        return ("teacher",)

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.config, self.optimization = config.section(VKDConfig), config.section(StudentConfig)
        self.net = Network(encoder(config.model.name, config.model.width), data.classes)
        self.teacher = frozen_teacher(inputs["teacher"])
        self.loss = CE()

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (view,) = batch.views
        alpha, temperature = self.config.alpha, self.config.temperature
        lesson = OverlappedTeacher(self.teacher, view)
        logits, _ = net(view)
        targets, _ = lesson.result()
        task = batch_mean(self.loss(logits, batch.labels), batch)
        distilled = batch_mean(kd_loss(logits, targets, temperature), batch)
        return {
            "loss": alpha * task + (1 - alpha) * distilled,
            "loss_task": task.detach(),
            "loss_kd": distilled.detach(),
            **fitted(logits, batch),
        }
