"""Zero-shot knowledge transfer (ZSKT; Micaelli & Storkey 2019, https://arxiv.org/abs/1905.09768)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.config import Optimization, Role, StageConfig, leaf
from dist_rmd.config.key_types import NonNegativeFloat, PositiveFloat, PositiveInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill.attention import attention_loss
from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import Encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.stages._data_free import DataFreeStage, diversity
from dist_rmd.stages.base import Batches, DataInfo, batch_mean

__all__ = ["ZSKT"]


@dataclass(frozen=True)
class ZSKTConfig(Optimization):
    """Stage `zskt`: constants and recipe of the authors' code for CIFAR-10; Adam moves both networks."""

    epochs: PositiveInt = 200
    """times `rounds` rounds"""
    rounds: PositiveInt = 400
    """batches of noise in an epoch, each of which serves `generator_steps` and then `student_steps` steps"""
    generator_steps: PositiveInt = 1
    """n_G, steps of the generator on a batch of noise"""
    student_steps: PositiveInt = 10
    """n_S, steps of the student on a batch of noise"""
    batch_size: PositiveInt = 128
    """images made in a step, over all ranks (the global batch)"""
    lr: PositiveFloat = 2e-3
    """initial learning rate of the student"""
    generator_lr: PositiveFloat = 1e-3
    """initial learning rate of the generator"""
    grad_clip: PositiveFloat | None = 5.0
    """largest norm of the gradient (no limit when null)"""
    beta: NonNegativeFloat = 250.0
    """weight of the attention loss, which the student alone has"""
    latent: PositiveInt = 100
    """dimensions of the noise"""
    generator_width: PositiveInt = leaf(64, Role.NETWORK, added=True)
    """channels of the generator's last maps; its first maps have twice as many"""


class Attentive(nn.Module):
    """A classifier of images N x 3 x S x S -> (logits N x C, the last feature map of every stage of the encoder)."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.out_features, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return watched(self, images)


class ZSKT(DataFreeStage):
    """Student: KL(T(x) || S(x)) / C + beta AT(x), the attention loss; generator of the images x: -KL(T(x) || S(x)) / C.

    With each batch of noise the generator is updated first, then the student on images of the updated generator (eq. 1,
    2 and algorithm 1).  As in the authors' code, KL is averaged over classes, and AT over positions.
    """

    sections: ClassVar[Mapping[str, type]] = {"zskt": ZSKTConfig}
    recipe = "zskt"

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.config = self.optimization = config.section(ZSKTConfig)
        classifier = Attentive if c.beta else ImageClassifier
        super().__init__(config, data, inputs, c.latent, False, c.generator_width, classifier)
        self.round = c.generator_steps + c.student_steps
        for whose, net in (("the student", self.net["student"]), ("the teacher", self.teacher)):
            kind: Any = type(net.encoder)
            if c.beta and kind.stage_maps is Encoder.stage_maps:
                raise ConfigError(
                    f"zskt.beta={c.beta:g} compares the maps at the end of every stage, which {whose} does not tell: "
                    "take a ResNet or a VGG of this package, or zskt.beta=0"
                )
        strides = [net.encoder.stride for net in (self.net["student"], self.teacher)]
        if c.beta and len(set(strides)) > 1:
            raise ConfigError(
                f"zskt.beta={c.beta:g} compares maps of student and teacher place by place, but these are smaller than "
                f"the image by {strides[0]} and {strides[1]}: take networks of one kind, or zskt.beta=0"
            )

    def param_groups(self) -> list[dict[str, Any]]:
        lr = {"student": self.config.lr, "generator": self.config.generator_lr}
        return [{"params": list(net.parameters()), "optimizer": "adam", "lr": lr[n]} for n, net in self.net.items()]

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        c = self.config
        return source.latents(c.latent, c.batch_size, c.rounds * self.round, seed, repeat=self.round)

    def trained(self, batch: Batch) -> nn.Module:
        return self.net["generator" if batch.number % self.round < self.config.generator_steps else "student"]

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(net, nn.ModuleDict)
        (noise,) = batch.views
        if self.trained(batch) is self.net["generator"]:
            images = net["generator"](noise)
            logits, _ = self.teacher(images)
            divergence = batch_mean(mean_divergence(self.net["student"](images)[0], logits), batch)
            return {"loss": -divergence, "loss_generator": -divergence.detach(), **diversity(images, logits, batch)}
        images = self.made(noise)
        said, ours = net["student"](images)
        with torch.no_grad():
            logits, theirs = watched(self.teacher, images) if self.config.beta else self.teacher(images)
        divergence = batch_mean(mean_divergence(said, logits), batch)
        if not self.config.beta:
            return {"loss": divergence, "loss_student": divergence.detach()}
        attention = batch_mean(attention_loss(ours, theirs), batch)
        return {
            "loss": divergence + self.config.beta * attention,
            "loss_student": divergence.detach(),
            "loss_attention": attention.detach(),
        }


def watched(net: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits N x C of a network with encoder and head, and the last feature map of every stage of the encoder."""
    maps = net.encoder.stage_maps(images)
    return net.head(net.encoder.pool(maps[-1])), maps


def mean_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(t) || softmax(s)) / C -> N values >= 0, with gradient to both; logits N x C, float32 or wider."""
    log_s, log_t = (F.log_softmax(x.float() if x.itemsize < 4 else x, dim=1) for x in (student, teacher))
    return (log_t.exp() * (log_t - log_s)).mean(dim=1)
