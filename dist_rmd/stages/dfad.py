"""Data-free adversarial distillation (DFAD; Fang et al. 2019, https://arxiv.org/abs/1912.11006)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from dist_rmd.config import Optimization, Role, Schedule, StageConfig, leaf
from dist_rmd.config.key_types import NonNegativeInt, PositiveFloat, PositiveInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.stages._data_free import DataFreeStage, diversity
from dist_rmd.stages.base import Batches, DataInfo, batch_mean

__all__ = ["DFAD"]


@dataclass(frozen=True)
class DFADConfig(Optimization):
    """Stage `dfad`: constants and recipe of the authors' code for CIFAR."""

    epochs: PositiveInt = 500
    """times `rounds` rounds"""
    rounds: PositiveInt = 50
    """rounds in an epoch: `student_steps` steps of the student and one step of the generator"""
    student_steps: PositiveInt = 5
    """k, steps of the student to one of the generator"""
    batch_size: PositiveInt = 256
    """images made in a step, over all ranks (the global batch)"""
    schedule: Schedule = "step"
    """of both learning rates: cosine: to zero over all steps; restarts: a cosine from each of `milestones` to
    the next, down to `gamma` of the initial rate; step: times `gamma` at each of `milestones`"""
    milestones: tuple[NonNegativeInt, ...] = (100, 200)
    """epochs after which schedule=step lowers both learning rates"""
    latent: PositiveInt = 256
    """dimensions of the noise"""
    generator_width: PositiveInt = leaf(64, Role.NETWORK, added=True)
    """channels of the generator's last maps; its first maps have twice as many"""
    generator_lr: PositiveFloat = 1e-3
    """initial learning rate of the generator's Adam"""


class DFAD(DataFreeStage):
    """A game over the mean of |T(x) - S(x)| over images and classes, T and S the logits of teacher and student.

    The student lowers this distance in `student_steps` steps, then the generator of the images x raises the distance in
    one step (eq. 5, 6 and algorithm 1).  Every step draws its own noise.
    """

    sections: ClassVar[Mapping[str, type]] = {"dfad": DFADConfig}
    recipe = "dfad"

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.config = self.optimization = config.section(DFADConfig)
        super().__init__(config, data, inputs, self.config.latent, width=self.config.generator_width)
        self.round = self.config.student_steps + 1

    def param_groups(self) -> list[dict[str, Any]]:
        adam = {"optimizer": "adam", "lr": self.config.generator_lr}
        return [
            {"params": list(self.net["student"].parameters())},
            {"params": list(self.net["generator"].parameters()), **adam},
        ]

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        c = self.config
        return source.latents(c.latent, c.batch_size, c.rounds * self.round, seed)

    def trained(self, batch: Batch) -> nn.Module:
        return self.net["generator" if batch.number % self.round == self.config.student_steps else "student"]

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(net, nn.ModuleDict)
        (noise,) = batch.views
        if self.trained(batch) is self.net["student"]:
            images = self.made(noise)
            distance = batch_mean(logit_distance(net["student"](images)[0], self.teacher(images)[0]), batch)
            return {"loss": distance, "loss_student": distance.detach()}
        images = net["generator"](noise)
        logits, _ = self.teacher(images)
        distance = batch_mean(logit_distance(self.net["student"](images)[0], logits), batch)
        return {"loss": -distance, "loss_generator": -distance.detach(), **diversity(images, logits, batch)}


def logit_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of |t - s| over classes, logits N x C -> N values >= 0, in float32 or float64."""
    s, t = (x.float() if x.itemsize < 4 else x for x in (student, teacher))
    return (t - s).abs().mean(dim=1)
