"""Vanilla knowledge distillation, the baseline of MODUL that ignores label noise (MODUL eq. 1, table I)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from dist_rmd.config import Role, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval, NonNegativeFloat, PositiveFloat
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill.hint import hint_loss
from dist_rmd.distill.kd import kd_loss
from dist_rmd.distill.overlapped import OverlappedTeacher
from dist_rmd.losses.ce import CE
from dist_rmd.models.encoder import Encoder, encoder
from dist_rmd.models.heads import ImageClassifier as Network
from dist_rmd.models.heads import frozen_classifier
from dist_rmd.stages._mixing import mix
from dist_rmd.stages._student import StudentConfig
from dist_rmd.stages.base import ClassifierStage, DataInfo, batch_mean, fitted

__all__ = ["VKD"]


@dataclass(frozen=True)
class VKDConfig:
    """The loss of stage `vkd` (MODUL eq. 1, whose constants the paper does not print).

    Eq. 1 compares soft labels or feature maps.  The paper's row VKD most probably compares feature maps: its numbers
    equal, to the digit, those of Table IV for cross entropy with the distance of features.  This is our inference; the
    paper does not say so.
    """

    transfer: Literal["features", "logits"] = leaf("logits", Role.RESULT, added=True)
    """what the student is to match of the teacher.  logits: softened outputs (Hinton et al. 2015), by T^2 KL; features:
    pooled features, by their mean square distance, through a learned linear layer if the widths differ"""

    alpha: ClosedUnitInterval = 0.1
    """weight of the cross entropy with the given labels; the distillation has weight 1 - alpha"""
    temperature: PositiveFloat = 4.0
    """T of transfer=logits"""
    mixup: NonNegativeFloat = leaf(0.0, Role.RESULT, added=True)
    """delta: every image is mixed with another image of its batch, with a weight from Beta(delta, delta), and learned
    under both labels; the teacher sees the mixed image.  0: no mixup"""


class Matched(Network):
    """A classifier of images N x 3 x S x S -> (logits N x C, features N x D, D as for the teacher)."""

    def __init__(self, encoder: Encoder, classes: int, taught: int):
        super().__init__(encoder, classes)
        width = encoder.out_features
        self.hint: nn.Module = nn.Linear(width, taught) if width != taught else nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = super().forward(images)
        return logits, self.hint(features)


class VKD(ClassifierStage):
    """L = alpha CE(student, given label) + (1 - alpha) d(teacher, student), over all images.

    d: T^2 KL of the outputs, or the mean square distance of the features.

    The frozen teacher sees the student's view.
    """

    sections: ClassVar[Mapping[str, type]] = {"student": StudentConfig, "vkd": VKDConfig}
    recipe = "student"
    net: Network

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        return ("teacher",)

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.config, self.optimization = config.section(VKDConfig), config.section(StudentConfig)
        body = encoder(config.model.name, config.model.width, config.model.init)
        if self.config.transfer == "features":
            self.net = Matched(body, data.classes, taught=inputs["teacher"]["head"]["weight"].shape[1])
        else:
            self.net = Network(body, data.classes)
        self.teacher = frozen_classifier(inputs["teacher"])
        self.loss = CE()
        self.draws = config.seed

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        mixed = mix(batch, self.config.mixup, self.draws)
        (view,) = mixed.views
        alpha, temperature = self.config.alpha, self.config.temperature
        lesson = OverlappedTeacher(self.teacher, view)
        logits, features = net(view)
        targets, taught = lesson.result()
        task = batch_mean(mixed.terms(lambda b: {"task": self.loss(logits, b.labels)})["task"], batch)
        if self.config.transfer == "features":
            distilled = batch_mean(hint_loss(features, taught), batch)
        else:
            distilled = batch_mean(kd_loss(logits, targets, temperature), batch)
        return {
            "loss": alpha * task + (1 - alpha) * distilled,
            "loss_task": task.detach(),
            "loss_kd": distilled.detach(),
            **({} if mixed.other else fitted(logits, batch)),
        }
