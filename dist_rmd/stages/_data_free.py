"""Shared parts of data-free distillation: student, generator, and a measure of how diverse the generated images are."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dist_rmd.config import StageConfig
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.latents import normal
from dist_rmd.distributed.collectives import all_reduce_sum, global_moments
from dist_rmd.models.encoder import Encoder, encoder
from dist_rmd.models.generator import Generator
from dist_rmd.models.heads import ImageClassifier, frozen_classifier
from dist_rmd.stages.base import ClassifierStage, DataInfo

PICTURES = 64
"""number of generated images in figures and artefacts"""
ALIKE = 0.1
"""standard deviation of a pixel over images below which the images count as all alike"""
FEW = 1.5
"""number of classes, exp of the entropy of the teacher's predictions, below which the images count as one class"""


class DataFreeStage(ClassifierStage):
    """Distils the frozen teacher on images that a generator makes from noise; no image of a dataset is seen.

    `net` holds "student" and "generator".  Generated images are normalised like the teacher's training images.
    """

    labels = "none"
    views = ()
    net: nn.ModuleDict

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        return ("teacher",)

    def __init__(
        self,
        config: StageConfig,
        data: DataInfo,
        inputs: Mapping[str, Any],
        latent: int,
        bounded: bool = True,
        width: int = 64,
        classifier: Callable[[Encoder, int], nn.Module] = ImageClassifier,
    ):
        """latent, width, bounded: see Generator.  classifier: (encoder, classes) -> student."""
        student = classifier(encoder(config.model.name, config.model.width, config.model.init), data.classes)
        self.net = nn.ModuleDict({"student": student, "generator": Generator(latent, data.side, width, bounded)})
        self.teacher = frozen_classifier(inputs["teacher"])
        self.latent, self.seed_of_noise = latent, config.seed
        self.told = False

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    def eval_nets(self) -> dict[str, nn.Module]:
        return {"": self.net["student"]}

    @torch.no_grad()
    def made(self, noise: Tensor) -> Tensor:
        """Generate images from noise without gradient, for steps that do not update the generator."""
        return self.net["generator"](noise)

    def pictures(self) -> Tensor:
        """Generate images for figures, always from the same noise, which no training step uses."""
        generator = self.net["generator"]
        weight = next(generator.parameters())
        noise = normal(self.seed_of_noise, -1, (PICTURES, self.latent), weight.device).to(weight.dtype)
        was_training = generator.training
        generator.eval()
        images = self.made(noise)
        generator.train(was_training)
        return images

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        if said := super().warning(metrics):
            return said
        std, classes = (metrics.get(f"train/generated_{what}") for what in ("std", "classes"))
        if self.told or std is None or classes is None or (std >= ALIKE and classes >= FEW):
            return None
        self.told = True  # warn once
        what = (
            f"its images are all alike (a pixel differs by {std:.3f} over them, about 1 is healthy)"
            if std < ALIKE
            else f"the teacher takes nearly all of its images for one class ({classes:.1f} classes by their entropy)"
        )
        return f"the generator has collapsed: {what}; a smaller {self.recipe}.generator_lr may cure it"

    def artefact(self) -> dict[str, Any]:
        """The student; generator: its weights; generated: 64 x 3 x S x S, normalised images of the generator."""
        return {
            **super().artefact(),
            "generator": self.net["generator"].state_dict(),
            "generated": self.pictures(),
        }


def diversity(images: Tensor, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Diversity of the generated images of the global batch, as terms without gradient.

    images: b x 3 x S x S of this rank.  logits: b x C of the teacher.
    Returns generated_std: standard deviation of a pixel over the images, as root mean square over all pixels; and
    generated_classes: exp of the entropy of the classes that the teacher predicts for the images, 1..C.
    """
    var, mean = torch.var_mean(images.detach().flatten(1).double(), dim=0, correction=0)
    _, var, rows = global_moments(mean, var, len(images))
    taken = logits.detach().argmax(dim=1, keepdim=True) == torch.arange(logits.shape[1], device=logits.device)
    shares = all_reduce_sum(taken.sum(dim=0).double()) / rows
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
    return {"generated_std": var.mean().sqrt(), "generated_classes": entropy.exp()}
