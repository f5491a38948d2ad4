"""Second stage of DeepInversion: distils a student on the images of stage `inversion` (Yin et al. 2020, sec. 4)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from dist_rmd.config import Optimization, Schedule, StageConfig
from dist_rmd.config.key_types import NonNegativeInt, PositiveFloat, PositiveInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill.kd import kd_loss
from dist_rmd.distill.overlapped import OverlappedTeacher
from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier, frozen_classifier
from dist_rmd.stages.base import Batches, ClassifierStage, DataInfo, batch_mean

__all__ = ["DeepInversion"]


@dataclass(frozen=True)
class DeepInversionConfig(Optimization):
    """Stage `deepinversion`: distillation from images that stage `inversion` has made.

    No code of this part is public; the recipe is the same as for the other students here.
    """

    epochs: PositiveInt = 200
    """passes over the images that have been made"""
    batch_size: PositiveInt = 128
    """images per optimizer step over all ranks (the global batch)"""
    schedule: Schedule = "step"
    """cosine: to zero over all steps; restarts: a cosine from each of `milestones` to the next, down to `gamma` of the
    initial rate; step: times `gamma` at each of `milestones`"""
    milestones: tuple[NonNegativeInt, ...] = (80, 160)
    """epochs after which schedule=step lowers the learning rate"""
    temperature: PositiveFloat = 3.0
    """T of the distillation"""


class DeepInversion(ClassifierStage):
    """L = T^2 KL(teacher || student) on weak views of the made images; the teacher sees the student's view."""

    sections: ClassVar[Mapping[str, type]] = {"deepinversion": DeepInversionConfig}
    recipe = "deepinversion"
    revision = 1  # earlier, model.init did not reach the student
    labels = "none"

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        return ("teacher", "inversion")

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.config = self.optimization = config.section(DeepInversionConfig)
        body = encoder(config.model.name, config.model.width, config.model.init)
        self.net = ImageClassifier(body, data.classes)
        self.teacher = frozen_classifier(inputs["teacher"])
        made = inputs["inversion"]
        self.images = made["images"]
        self.made = LabelView.of(made["labels"].cpu().numpy(), data.classes, verified=False)

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        """Views of the images that stage `inversion` has made; `labels` is not used."""
        size = self.config.batch_size
        if size > len(self.made):
            raise ConfigError(f"deepinversion.batch_size={size}: must be at most the {len(self.made)} images made")
        return source.made(self.images, self.made, self.views, size, seed)

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        (view,) = batch.views
        lesson = OverlappedTeacher(self.teacher, view)
        logits, _ = net(view)
        targets, _ = lesson.result()
        return {"loss": batch_mean(kd_loss(logits, targets, self.config.temperature), batch)}
