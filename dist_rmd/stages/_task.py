"""Shared parts of all stages that learn the given labels: recipe, mixup, divided labels, a teacher's features."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dist_rmd.config import LabelledOptimization, Role, Schedule, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill.hint import hint_loss
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.models.average import average_of, move_average
from dist_rmd.models.encoder import Encoder, encoder
from dist_rmd.models.heads import ImageClassifier, frozen_classifier
from dist_rmd.models.statistics import statistics_kept
from dist_rmd.stages._divided import divided
from dist_rmd.stages._label_free import LabelFree
from dist_rmd.stages._mixing import Mixed, mix
from dist_rmd.stages._student import take_over
from dist_rmd.stages.base import Batches, ClassifierStage, Clock, DataInfo, batch_mean, fitted


@dataclass(frozen=True)
class TaskConfig(LabelledOptimization):
    """The task network, trained by `classifier`, `rgrl` and all methods for noisy labels alike (RMDNet sec. 4.3)."""

    epochs: PositiveInt = 240
    """passes over the training images"""
    lr: PositiveFloat = 0.001
    """initial learning rate (0.001 for CIFAR-10, 0.01 for CIFAR-100)"""
    schedule: Schedule = "step"
    """cosine: decay to zero over all steps; restarts: a cosine from each of `milestones` to the next, down to `gamma`
    times the initial rate; step: multiply by `gamma` at each of `milestones`"""
    milestones: tuple[int, ...] = (150, 180, 210)
    """epochs after which schedule=step multiplies the learning rate by `gamma`, or schedule=restarts restarts"""
    mixup: NonNegativeFloat = leaf(0.0, Role.RESULT, added=True)
    """delta > 0: mixup of each image with another image of the batch, with a weight from Beta(delta, delta); most codes
    use 1, MODUL's authors 8.  0: no mixup"""
    divided: bool = leaf(False, Role.RESULT, added=True)
    """train on the clean and the closed set of stage `division`, under its labels, without the open set"""
    kd: ClosedUnitInterval = leaf(0.0, Role.RESULT, added=True)
    """weight of the distance to the features of stage `teacher` (MODUL eq. 20); the method's loss has weight 1 - kd"""
    relabel: bool = leaf(False, Role.RESULT, added=True)
    """learn the labels of stage `relabel`, with each image's loss weighted by the probability of its label; with
    relabel.soft the expected loss of each image under the probabilities of all classes"""
    init_from: LabelFree | None = leaf(None, Role.RESULT, added=True)
    """stage without labels from whose encoder the network starts; from random weights when null"""
    average: ClosedUnitInterval = leaf(0.0, Role.RESULT, added=True)
    """decay per step of a moving average of the network's weights; the average is evaluated in place of the network.
    0: no average"""

    def __post_init__(self) -> None:
        if self.divided and self.relabel:
            raise ConfigError("task.divided and task.relabel: an image has one label; choose one of the two")


class Seen(NamedTuple):
    """Outputs of the network for a batch."""

    logits: Tensor
    """b x C"""
    features: Tensor
    """b x D"""
    hint: Any = None
    """b x D, the features mapped to the width D of the teacher's features, if there is a teacher"""
    others: Any = None
    """b x C: logits of the other images, if the network sees other images"""


class TaskNetwork(ImageClassifier):
    """A classifier whose features are compared with a teacher's, or that sees other images beside a batch.

    One forward pass computes all outputs, as DDP needs.
    """

    def __init__(self, body: Encoder, classes: int, taught: int | None):
        super().__init__(body, classes)
        width = body.out_features
        self.hint: nn.Module | None = None
        if taught is not None:
            self.hint = nn.Linear(width, taught) if width != taught else nn.Identity()

    def forward(self, images: Tensor, others: Tensor | None = None) -> Seen:  # type: ignore[override]
        """Outputs for images b x 3 x S x S, and logits for others b x 3 x S x S.

        The images `others` do not change the running statistics of batch normalisation.
        """
        logits, features = super().forward(images)
        hint = None if self.hint is None else self.hint(features)
        if others is None:
            return Seen(logits, features, hint)
        with statistics_kept(self.encoder):
            beside, _ = super().forward(others)
        return Seen(logits, features, hint, beside)


class TaskStage(ClassifierStage):
    """Base of the methods that learn the given labels: `terms` gives the losses of each image under a label.

    L = (1 - kd) sum_k weight_k mean(term_k) + kd MSE(features, teacher's features); without a teacher kd is 0.  With
    the labels of stage `relabel` each image's terms are multiplied by its weight, whose mean over all images is 1; with
    soft labels, sum_c p_c term_k(c) over all classes c takes the place of term_k.
    """

    sections: ClassVar[Mapping[str, type]] = {"task": TaskConfig}
    recipe = "task"
    weights: Mapping[str, float] = {"task": 1.0}
    """weights of the terms, by name"""
    sees_others: ClassVar[bool] = False
    """whether the network sees other images beside a batch"""
    classifier: ImageClassifier
    """the network that is evaluated: `net`, or a part of it"""

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        task = config.section(TaskConfig)
        wanted = {"teacher": task.kd, "division": task.divided, "relabel": task.relabel}
        start = () if task.init_from is None else (task.init_from,)
        return (*start, *(name for name, needed in wanted.items() if needed))

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        task = self.optimization = self.task = config.section(TaskConfig)
        self.guide = frozen_classifier(inputs["teacher"]) if task.kd else None
        self.division = inputs["division"] if task.divided else None
        self.refined = inputs["relabel"] if task.relabel else None
        self.image_weights: Tensor | None = None
        self.soft: Tensor | None = None if self.refined is None else self.refined.get("probabilities")
        if self.refined is not None and self.soft is None:
            self.image_weights = self.refined["weights"] / self.refined["weights"].mean()
        self.draws = config.seed
        body = encoder(config.model.name, config.model.width, config.model.init)
        if task.init_from is not None:
            take_over(body, inputs[task.init_from], config.model)
        if self.guide is None and not self.sees_others:
            self.classifier = ImageClassifier(body, data.classes)
        else:
            taught = None if self.guide is None else self.guide.encoder.out_features
            self.classifier = TaskNetwork(body, data.classes, taught)
        self.net = self.classifier
        self.start_average()

    def start_average(self) -> None:
        """Start the moving average, if task.average is set, from the present weights of the classifier."""
        if self.task.average:
            self.averages = {"average": average_of(self.classifier)}

    def frozen(self) -> list[nn.Module]:
        return [] if self.guide is None else [self.guide]

    def prepare(self, source: Loaders, labels: LabelView) -> None:
        """Select the images to train on."""
        self.source = source
        self.learned = labels if self.division is None else divided(labels, self.division)[0]
        if self.refined is not None:
            if not np.array_equal(self.refined["indices"], labels.indices):
                raise DataError(
                    "the refined labels are of other images than this run's: refine these (stages=[..., relabel, ...])"
                )
            self.learned = labels.part(np.arange(len(labels)), self.refined["labels"].numpy())
            if self.soft is not None:
                self.soft = self.soft.to(source.device)
            if self.image_weights is not None:
                self.image_weights = self.image_weights.to(source.device)

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        """Batches of the selected images."""
        return super().batches(source, self.learned, seed)

    def terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        """The method's losses by name, b values each, under the labels of `batch`.

        Terms without an entry in `weights` are only logged.  With mixup the method is called twice: with the own
        labels, rows and indices of the images, and with the labels, rows and indices of the images mixed in.
        """
        raise NotImplementedError

    def label_free(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        """The method's losses that depend on no label, by name, b values each."""
        return {}

    def remember(self, seen: Seen, batch: Batch, is_mixed: bool) -> None:
        """Store outputs of the network that `terms` needs; called before `terms`.

        seen: outputs for the images of `batch`, mixed if `is_mixed`.
        """

    def look(self, net: nn.Module, mixed: Mixed) -> Seen:
        """Outputs of the network for the images, in one forward pass."""
        return Seen(*net(mixed.views[0]))

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        mixed = mix(batch, self.task.mixup, self.draws)
        seen = self.look(net, mixed)
        self.remember(seen, batch, mixed.other is not None)
        return self.judged(seen, mixed)

    def judged(self, seen: Seen, mixed: Mixed) -> dict[str, Tensor]:
        """The loss of a batch; its parts, if there are several; without mixup also the share of fitted labels."""
        batch = mixed.own
        values = mixed.terms(lambda b: self._weighted(self._expected(seen, b), b)) | self.label_free(seen, batch)
        means = {name: batch_mean(value, batch) for name, value in values.items()}
        measured = {name: means.pop(name).detach() for name in values if name not in self.weights}
        loss = torch.stack([self.weights[name] * mean for name, mean in means.items()]).sum()
        if self.guide is not None:
            with torch.no_grad():
                taught = self.guide.encoder(mixed.views[0])
            means["kd"] = batch_mean(hint_loss(seen.hint, taught), batch)
            loss = (1 - self.task.kd) * loss + self.task.kd * means["kd"]
        parts = {f"loss_{name}": mean.detach() for name, mean in means.items()} if len(means) > 1 else {}
        return {"loss": loss, **parts, **measured, **(fitted(seen.logits, batch) if mixed.other is None else {})}

    def _expected(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        """The terms under the labels of `batch`; with soft labels, the expected terms under all classes."""
        if self.soft is None:
            return self.terms(seen, batch)
        shares = self.soft[batch.rows]
        classes = range(shares.shape[1])
        under = [self.terms(seen, replace(batch, labels=torch.full_like(batch.labels, c))) for c in classes]
        return {name: torch.stack([shares[:, c] * under[c][name] for c in classes]).sum(0) for name in under[0]}

    def _weighted(self, terms: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        if self.image_weights is None:
            return terms
        weights = self.image_weights[batch.rows]
        return {name: weights * values if name in self.weights else values for name, values in terms.items()}

    def after_step(self, clock: Clock) -> None:
        if self.task.average:
            move_average(self.averages["average"], self.classifier, self.task.average)

    def eval_nets(self) -> dict[str, nn.Module]:
        """The classifier, or with task.average the moving average and, as `network`, the classifier."""
        averages, net = self.averages, self.classifier
        return {"": averages["average"], "network": net} if self.task.average else {"": net}
