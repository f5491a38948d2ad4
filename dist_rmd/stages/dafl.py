"""Data-free learning (DAFL; Chen et al. 2019, https://arxiv.org/abs/1904.01186), which MODUL's Table 3 calls DFL."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.config import Optimization, Role, Schedule, StageConfig, leaf
from dist_rmd.config.key_types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill.kd import kd_loss
from dist_rmd.distributed.collectives import mean_rows
from dist_rmd.stages._data_free import DataFreeStage, diversity
from dist_rmd.stages.base import Batches, DataInfo, batch_mean

__all__ = ["DAFL"]


@dataclass(frozen=True)
class DAFLConfig(Optimization):
    """Stage `dafl`: constants and recipe of the authors' code for CIFAR-10 (CIFAR-100: oh 0.5, alpha 0.1, beta 20)."""

    epochs: PositiveInt = 2000
    """times `steps` optimizer steps in all"""
    steps: PositiveInt = 120
    """optimizer steps in an epoch"""
    batch_size: PositiveInt = 1024
    """images made in a step, over all ranks (the global batch)"""
    schedule: Schedule = "step"
    """of the student's learning rate: cosine: to zero over all steps; restarts: a cosine from each of `milestones` to
    the next, down to `gamma` of the initial rate; step: times `gamma` at each of `milestones`"""
    milestones: tuple[NonNegativeInt, ...] = (800, 1600)
    """epochs after which schedule=step lowers the learning rate"""
    oh: NonNegativeFloat = 0.05
    """weight of the one-hot loss"""
    alpha: NonNegativeFloat = 0.01
    """weight of the activation loss"""
    beta: NonNegativeFloat = 5.0
    """weight of the information entropy loss"""
    latent: PositiveInt = 1000
    """dimensions of the noise"""
    generator_width: PositiveInt = leaf(64, Role.NETWORK, added=True)
    """channels of the generator's last maps; its first maps have twice as many"""
    generator_lr: PositiveFloat = 0.02
    """learning rate of the generator's Adam, constant"""


class DAFL(DataFreeStage):
    """Generator: oh CE(T(x), argmax T(x)) - alpha mean |f_T(x)| + beta sum p log10 p.  Student: KL(T(x) || S(x)).

    T(x) and f_T(x) are the teacher's logits and features of generated images x, and p is the mean of the teacher's
    probabilities over the global batch (eq. 2-5).  Each step updates both networks; the student's loss has no gradient
    to the images.
    """

    sections: ClassVar[Mapping[str, type]] = {"dafl": DAFLConfig}
    recipe = "dafl"

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.config = self.optimization = config.section(DAFLConfig)
        super().__init__(config, data, inputs, self.config.latent, width=self.config.generator_width)

    def param_groups(self) -> list[dict[str, Any]]:
        generator = {"optimizer": "adam", "lr": self.config.generator_lr, "constant_lr": True}
        return [
            {"params": list(self.net["student"].parameters())},
            {"params": list(self.net["generator"].parameters()), **generator},
        ]

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        c = self.config
        return source.latents(c.latent, c.batch_size, c.steps, seed)

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(net, nn.ModuleDict)
        (noise,), c = batch.views, self.config
        images = net["generator"](noise)
        logits, features = (out.float() if out.itemsize < 4 else out for out in self.teacher(images))
        one_hot = batch_mean(F.cross_entropy(logits, logits.argmax(dim=1), reduction="none"), batch)
        activation = -batch_mean(features.abs().mean(dim=1), batch)
        entropy = negative_entropy(logits, batch)
        said, _ = net["student"](images.detach())
        distilled = batch_mean(kd_loss(said, logits, temperature=1), batch)
        return {
            "loss": c.oh * one_hot + c.alpha * activation + c.beta * entropy + distilled,
            "loss_onehot": one_hot.detach(),
            "loss_activation": activation.detach(),
            "loss_entropy": entropy.detach(),
            "loss_kd": distilled.detach(),
            **diversity(images, logits, batch),
        }


def negative_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """sum_c p_c log10 p_c, 0-d, where p is the mean of softmax(logits) over the global batch.

    logits: b x C of this rank.  All ranks get the same value, with gradient.
    """
    p = mean_rows(logits.softmax(dim=1), batch.sizes)
    return p @ p.clamp_min(torch.finfo(p.dtype).tiny).log10()  # 0 log 0 = 0
