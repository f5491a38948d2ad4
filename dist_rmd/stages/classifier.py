"""The baseline: an encoder and a linear head trained on the given labels with one robust loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor, nn

from dist_rmd.config import LabelledOptimization, StageConfig
from dist_rmd.data.loading.batch import Batch
from dist_rmd.losses._build import LossConfig, configured
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier as Network
from dist_rmd.stages.base import ClassifierStage, DataInfo, batch_mean, fitted

__all__ = ["Classifier"]


@dataclass(frozen=True)
class TaskConfig(LabelledOptimization):
    """The task network, trained by the stages `classifier` and `rgrl` alike (RMDNet sec. 4.3)."""

    epochs: PositiveInt = 240
    """passes over the training images"""
    lr: PositiveFloat = 0.001
    """initial learning rate (0.001 for CIFAR-10, 0.01 for CIFAR-100)"""
    schedule: Literal["cosine", "step", "constant"] = "step"
    """cosine: to zero over all steps; step: times `gamma` at each of `milestones`"""
    milestones: tuple[int, ...] = (150, 180, 210)
    """epochs after which schedule=step lowers the learning rate"""


class Classifier(ClassifierStage):
    """Mean robust loss between the logits and the given labels."""

    sections: ClassVar[Mapping[str, type]] = {"task": TaskConfig, "loss": LossConfig}
    recipe = "task"
    net: Network

    @classmethod
    def check(cls, config: StageConfig) -> None:
        configured(config.section(LossConfig))

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.optimization = config.section(TaskConfig)
        self.net = Network(encoder(config.model.name, config.model.width), data.classes)
        self.loss = configured(config.section(LossConfig))

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (view,) = batch.views
        logits, _ = net(view)
        return {"loss": batch_mean(self.loss(logits, batch.labels), batch), **fitted(logits, batch)}
