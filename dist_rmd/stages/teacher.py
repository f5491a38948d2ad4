"""The network that MODUL distils: an ordinary classifier of the original images (MODUL sec. V-B)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dist_rmd.config import EncoderName, Model, Optimization, Role, Schedule, StageConfig, Width, leaf
from dist_rmd.config.key_types import NonNegativeFloat, NonNegativeInt, PositiveInt
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill.division import evidential_loss
from dist_rmd.losses.ce import CE
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier as Network
from dist_rmd.stages._mixing import mix
from dist_rmd.stages.base import ClassifierStage, DataInfo, batch_mean, fitted

__all__ = ["Teacher"]

EDL_EPOCHS = 10
"""over which the KL term of evidential learning grows to its full weight"""


@dataclass(frozen=True)
class TeacherConfig(Optimization):
    """Stage `teacher`: the network to be distilled, with the recipe of the code of MODUL's authors."""

    model: EncoderName = leaf("resnet34", Role.NETWORK)
    """encoder of the teacher, in place of model.name"""
    width: Width = leaf(64, Role.NETWORK)
    """channels of its first stage, in place of model.width"""
    per_class: PositiveInt | None = None
    """it learns the first N images of every class, whatever data.skip leaves to the student (data.per_class when
    null)"""
    batch_size: PositiveInt = 256
    """images per optimizer step over all ranks (the global batch)"""
    schedule: Schedule = "step"
    """cosine: to zero over all steps; restarts: a cosine from each of `milestones` to the next, down to `gamma` of the
    initial rate; step: times `gamma` at each of `milestones`"""
    milestones: tuple[NonNegativeInt, ...] = (80, 120)
    """epochs after which schedule=step lowers the learning rate, or schedule=restarts begins anew"""
    loss: Literal["ce", "edl"] = leaf("ce", Role.RESULT, added=True)
    """ce: cross entropy; edl: that of evidential networks (Sensoy et al. 2018), whose ReLU outputs are evidence as the
    division takes them to be"""
    mixup: NonNegativeFloat = leaf(0.0, Role.RESULT, added=True)
    """delta: every image is mixed with another of its batch, by a weight from Beta(delta, delta), and learned under
    both labels; 0: images stay as they are"""


class Teacher(ClassifierStage):
    """Mean loss between the logits and the true labels of all original images, whatever the run's noise."""

    sections: ClassVar[Mapping[str, type]] = {"teacher": TeacherConfig}
    recipe = "teacher"
    labels = "true"

    @classmethod
    def model(cls, config: StageConfig) -> Model:
        section = config.section(TeacherConfig)
        return Model(section.model, section.width, config.model.init)

    @classmethod
    def per_class(cls, config: StageConfig) -> int | None:
        return config.section(TeacherConfig).per_class

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.optimization: TeacherConfig = config.section(TeacherConfig)
        self.net = Network(encoder(config.model.name, config.model.width, config.model.init), data.classes)
        self.loss = CE()
        self.draws = config.seed

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        mixed = mix(batch, self.optimization.mixup, self.draws)
        logits, _ = net(mixed.views[0])
        loss = mixed.terms(lambda b: {"task": self._loss(logits, b)})["task"]
        return {"loss": batch_mean(loss, batch), **({} if mixed.other else fitted(logits, batch))}

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        if self.optimization.loss == "ce":
            return self.loss(logits, batch.labels)
        with torch.autocast(logits.device.type, enabled=False):
            return evidential_loss(logits, batch.labels, min(1.0, batch.epoch / EDL_EPOCHS))
