"""Linear probe: measures how well a linear classifier separates the classes in frozen features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dist_rmd.config import LabelledOptimization, Role, StageConfig, leaf
from dist_rmd.config.key_types import NonNegativeFloat, PositiveFloat, PositiveInt
from dist_rmd.data.loading.batch import Batch
from dist_rmd.losses.ce import CE
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.stages._label_free import LabelFree
from dist_rmd.stages._student import take_over
from dist_rmd.stages.base import ClassifierStage, DataInfo, batch_mean, fitted

__all__ = ["Probe"]


@dataclass(frozen=True)
class ProbeConfig(LabelledOptimization):
    """Stage `probe`: a linear classifier on frozen features, by the recipe of MoCo (He et al. 2020, sec. 4.1)."""

    epochs: PositiveInt = 100
    """passes over the training images"""
    batch_size: PositiveInt = 256
    """images per optimizer step over all ranks (the global batch)"""
    lr: PositiveFloat = 30.0
    """initial learning rate: large, since features are small and only the linear layer is trained"""
    lr_scaling: bool = True
    """multiply lr by batch_size / 256"""
    weight_decay: NonNegativeFloat = 0.0
    """weight decay, on all parameters"""
    teacher: LabelFree = leaf("simsiam", Role.RESULT, added=True)
    """the stage whose encoder gives the features"""


class Frozen(ImageClassifier):
    """A frozen encoder, in evaluation mode, with a linear head that is trained.

    images N x 3 x S x S -> (logits N x classes, features N x D); only the logits have a gradient.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features = self.encoder(images)
        return self.head(features), features

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.encoder.eval()
        return self


class Probe(ClassifierStage):
    """Mean cross entropy between the logits and the given labels, on weak views of the images.

    The probe learns the given labels, noisy or not; the literature reports probes of correct labels (noise.rate=0).
    """

    sections: ClassVar[Mapping[str, type]] = {"probe": ProbeConfig}
    recipe = "probe"
    net: Frozen

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        return (config.section(ProbeConfig).teacher,)

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.optimization = config.section(ProbeConfig)
        body = encoder(config.model.name, config.model.width)
        take_over(body, inputs[c.teacher], config.model)
        self.net = Frozen(body.requires_grad_(False), data.classes).train()
        nn.init.normal_(self.net.head.weight, std=0.01)
        nn.init.zeros_(self.net.head.bias)
        self.loss = CE()

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (view,) = batch.views
        logits, _ = net(view)
        return {"loss": batch_mean(self.loss(logits, batch.labels), batch), **fitted(logits, batch)}
