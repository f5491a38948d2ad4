"""First stage of DeepInversion (Yin et al. 2020, https://arxiv.org/abs/1912.08795): images synthesised from a teacher.

In Adaptive DeepInversion a student competes: images on which teacher and student differ are preferred.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.config import Optimization, Schedule, StageConfig
from dist_rmd.config.key_types import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from dist_rmd.data.augment import keyed_rng
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill.kd import kd_loss
from dist_rmd.distributed.collectives import gather_rows, write_rows
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier, frozen_classifier
from dist_rmd.models.statistics import batch_moments
from dist_rmd.stages._data_free import PICTURES
from dist_rmd.stages.base import Batches, ClassifierStage, Clock, DataInfo, batch_mean

__all__ = ["Inversion"]


@dataclass(frozen=True)
class InversionConfig(Optimization):
    """Stage `inversion`: the paper's constants, as the authors' code names them, and MODUL's weight of competition."""

    epochs: PositiveInt = 40
    """batches of images that are made, one batch after another"""
    batch_size: PositiveInt = 256
    """images of each batch, over all ranks (the global batch)"""
    iterations: PositiveInt = 2000
    """steps of Adam on each batch of images"""
    lr: PositiveFloat = 0.05
    """learning rate of Adam"""
    schedule: Schedule = "constant"
    """of both learning rates over all epochs; the authors' code keeps the learning rate of images constant"""
    feature: NonNegativeFloat = 10.0
    """alpha_f, weight of the distance of the teacher's batch statistics to its running statistics"""
    tv: NonNegativeFloat = 2.5e-5
    """alpha_tv, weight of the total variation"""
    l2: NonNegativeFloat = 0.0
    """alpha_l2, weight of the norm of the images"""
    compete: NonNegativeFloat = 10.0
    """alpha_c, weight of the competition, of 1 - JS(teacher, student); 0 is DeepInversion without it"""
    jitter: NonNegativeInt = 2
    """pixels by which a batch is rolled at most, anew in each step; the authors' 2 are for images of side 32"""
    temperature: PositiveFloat = 3.0
    """of the competition and of the competing student's distillation"""
    student_steps: NonNegativeInt = 400
    """optimizer steps of the competing student after each batch of images, on all images made so far"""
    student_lr: PositiveFloat = 0.1
    """initial learning rate of the competing student's SGD"""


class Pixels(nn.Module):
    """The images that are optimised, B x 3 x S x S, normalised: rows of the batch -> their images.

    mean, std: of the channels, on the scale 0..1, with which the teacher's images were normalised.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, images: int, side: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(images, 3, side, side))
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, rows: Tensor) -> Tensor:
        return self.values[rows]

    def rounded(self) -> Tensor:
        """The images rounded to pixels, B x S x S x 3 uint8, as the pool keeps images."""
        pixels = (self.values.detach() * self.std + self.mean).clamp(0, 1) * 255
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1)

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images of the pool for a network: n x S x S x 3 uint8 -> n x 3 x S x S."""
        pixels = images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        return ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


class Inversion(ClassifierStage):
    """L = CE(T(x), y) + feature R(x) + tv TV(x) + l2 ||x|| + compete (1 - JS(T(x), S(x))), minimised over images x.

    R is the sum over the teacher's batch normalisations of ||mean - running mean|| + ||var - running var||, where mean
    and var are of the layer's input over the global batch; TV and ||x|| are norms over the global batch.  Images begin
    as noise.  The class y of an image is its position among all images, modulo C.  An epoch makes one batch of images;
    then the competing student S is distilled from the teacher T on all images so far.  Adam restarts with each batch.
    """

    sections: ClassVar[Mapping[str, type]] = {"inversion": InversionConfig}
    recipe = "inversion"
    revision = 1  # earlier, model.init did not reach the student
    labels = "none"
    views = ()
    net: nn.ModuleDict

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        return ("teacher",)

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.config = self.optimization = config.section(InversionConfig)
        student = ImageClassifier(encoder(config.model.name, config.model.width, config.model.init), data.classes)
        taught = inputs["teacher"]
        pixels = Pixels(c.batch_size, data.side, taught["mean"], taught["std"])
        self.net = nn.ModuleDict({"student": student, "pixels": pixels})
        self.teacher = frozen_classifier(taught)
        self.draws, self.classes, self.side = config.seed, data.classes, data.side
        self.steps, self.latent = c.iterations + c.student_steps, 3 * data.side**2
        self.memory = {"pool": torch.zeros(c.epochs * c.batch_size, data.side, data.side, 3, dtype=torch.uint8)}

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    def eval_nets(self) -> dict[str, nn.Module]:
        return {"": self.net["student"]}

    def param_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": list(self.net["pixels"].parameters()), "optimizer": "adam", "begins_anew": True},
            {"params": list(self.net["student"].parameters()), "optimizer": "sgd", "lr": self.config.student_lr},
        ]

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        """Noise from which the images of an epoch begin, the same in every step of the epoch."""
        return source.latents(self.latent, self.config.batch_size, self.steps, seed, repeat=self.steps)

    def trained(self, batch: Batch) -> nn.Module:
        return self.net["pixels" if batch.number < self.config.iterations else "student"]

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(net, nn.ModuleDict)
        if self.trained(batch) is self.net["student"]:
            return self._taught(net["student"], batch)
        if batch.number == 0:
            noise = batch.views[0].unflatten(1, (3, self.side, self.side))
            write_rows(self._sought().values.detach(), batch.rows, noise, batch.sizes)
        c, wanted = self.config, self.wanted(batch.rows, batch.epoch)
        shifts = [self._draw(batch, f"jitter {axis}") % (2 * c.jitter + 1) - c.jitter for axis in range(2)]
        images = torch.roll(net["pixels"](batch.rows), shifts, dims=(2, 3))
        with batch_moments(self.teacher) as layers:
            logits, _ = self.teacher(images)
        logits = logits.float() if logits.itemsize < 4 else logits
        named = batch_mean(F.cross_entropy(logits, wanted, reduction="none"), batch)
        feature = feature_distance(layers, batch)
        variation, norm = image_norms(images, batch)
        loss = named + c.feature * feature + c.tv * variation + c.l2 * norm
        terms = {"loss_named": named, "loss_feature": feature, "loss_tv": variation}
        if c.compete:
            said, _ = self.net["student"].eval()(images)
            terms["loss_compete"] = batch_mean(1 - jensen_shannon(logits, said, c.temperature), batch)
            loss = loss + c.compete * terms["loss_compete"]
        hit = torch.stack([(logits.argmax(dim=1) == wanted).sum(), torch.full_like(wanted[0], len(wanted))])
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}, "named": hit}

    def _taught(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Losses of a step of the competing student on images drawn from the pool."""
        self.net["student"].train()
        there = (batch.epoch + 1) * self.config.batch_size
        bits = keyed_rng.bits(self.draws, batch.epoch * self.steps + batch.number, 0, "pool", batch.rows)
        images = self._sought().normalised(self.memory["pool"][keyed_rng.below(bits, there)])
        with torch.no_grad():
            logits, _ = self.teacher(images)
        said, _ = net(images)
        distilled = batch_mean(kd_loss(said, logits, self.config.temperature), batch)
        return {"loss": distilled, "loss_kd": distilled.detach()}

    def after_step(self, clock: Clock) -> None:
        """Add the batch of images to the pool after the last step on the images."""
        epoch, number = divmod(clock.step - 1, self.steps)
        if number == self.config.iterations - 1:
            size = self.config.batch_size
            self.memory["pool"][epoch * size : (epoch + 1) * size] = self._sought().rounded()

    def _sought(self) -> Pixels:
        pixels = self.net["pixels"]
        assert isinstance(pixels, Pixels)
        return pixels

    def wanted(self, rows: Tensor, epoch: int) -> Tensor:
        """The target classes of the images at the positions `rows` of the batch of `epoch`."""
        return (epoch * self.config.batch_size + rows) % self.classes

    def _draw(self, batch: Batch, what: str) -> int:
        return keyed_rng.key(self.draws, batch.epoch * self.steps + batch.number, 0, what)

    def pictures(self) -> Tensor:
        """The first images of the present batch."""
        return self._sought().values.detach()[:PICTURES]

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """None: the accuracy of the competing student, a tool of the stage, needs no warning."""
        return None

    def artefact(self) -> dict[str, Any]:
        """The competing student; images: N x S x S x 3 uint8; labels: N int64, the target classes of the images."""
        pool = self.memory["pool"]
        labels = torch.arange(len(pool), device=pool.device) % self.classes
        return {
            **super().artefact(),
            "images": pool,
            "labels": labels,
            "generated": self._sought().normalised(pool[:PICTURES]),
        }


def feature_distance(layers: Sequence[tuple[Any, Tensor, Tensor]], batch: Batch) -> Tensor:
    """R: sum over layers of ||mean - running mean|| + ||var - running var|| over the global batch, 0-d, with gradient.

    layers: moments of this rank's images, see batch_moments.  One gathering serves all layers.
    """
    widths = [len(mean) for _, mean, _ in layers]
    share = layers[0][1].new_full((1,), len(batch.rows) / sum(batch.sizes))
    own = torch.cat([share, *(torch.cat([mean, var]) for _, mean, var in layers)])
    shares, *ranks = gather_rows(own[None], [1] * len(batch.sizes)).split([1, *(2 * width for width in widths)], dim=1)
    total = own.new_zeros(())
    for (layer, _, _), parts in zip(layers, ranks, strict=True):
        means, variances = parts.chunk(2, dim=1)  # ranks x C
        mean = (shares * means).sum(0)
        var = (shares * (variances + (means - mean).square())).sum(0)
        total = total + (mean - layer.running_mean).norm() + (var - layer.running_var).norm()
    return total


def image_norms(images: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Total variation and norm of the images of the global batch, 0-d each; images: b x 3 x S x S of this rank.

    The variation is the sum, over four directions (two are diagonal), of the norm of the differences to neighbours.
    """
    x = images.float() if images.itemsize < 4 else images
    differences = (
        x[..., :-1] - x[..., 1:],
        x[..., :-1, :] - x[..., 1:, :],
        x[..., 1:, :-1] - x[..., :-1, 1:],
        x[..., :-1, :-1] - x[..., 1:, 1:],
    )
    squares = torch.stack([part.square().sum() for part in (*differences, x)])
    norms = gather_rows(squares[None], [1] * len(batch.sizes)).sum(0).clamp_min(1e-12).sqrt()
    return norms[:4].sum(), norms[4]


def jensen_shannon(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """JS(softmax(one / T), softmax(other / T)) -> N values in 0..log 2, with gradient to both; logits N x C.

    The authors' code has KL(M || P) in place of KL(P || M), of probabilities kept within 0.01..0.99.
    """
    log_p, log_q = (F.log_softmax((x.float() if x.itemsize < 4 else x) / temperature, dim=1) for x in (one, other))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return ((log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)) / 2).sum(dim=1)
