"""Second stage of MODUL: distils a student on the divided set (MODUL sec. IV-B to IV-D)."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.config import Role, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loader import Loader
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.data.loading.paired import Paired
from dist_rmd.distill import mixup
from dist_rmd.distill.division import CLEAN, CLOSED, OPEN
from dist_rmd.distill.hint import hint_loss
from dist_rmd.distill.instance import instance_loss
from dist_rmd.distill.kd import kd_loss
from dist_rmd.distill.prototypes import class_sums, prototypes, prototypical_loss
from dist_rmd.distill.rotation import rotated
from dist_rmd.distributed.collectives import rank
from dist_rmd.errors import ConfigError
from dist_rmd.losses._build import LossConfig, configured
from dist_rmd.losses.ce import CE
from dist_rmd.models.encoder import Encoder, encoder
from dist_rmd.models.heads import frozen_classifier, linear_head
from dist_rmd.models.statistics import statistics_kept
from dist_rmd.stages._divided import divided
from dist_rmd.stages._student import StudentConfig, own_share
from dist_rmd.stages.base import Batches, DataInfo, TrainingStage, batch_mean, fitted

__all__ = ["Modul"]


@dataclass(frozen=True)
class ModulConfig:
    """The terms of stage `modul` (MODUL eq. 21): alpha CE + (1 - alpha) KD + beta (category + instance) + gamma
    rotation; beyond the paper, T^2 KL between softened outputs of teacher and student.  A weight of 0 switches a term
    off."""

    alpha: ClosedUnitInterval = 0.1
    """weight of the cross entropy, or of the loss of section `loss` in its place"""
    beta: NonNegativeFloat = 0.1
    """weight of the category and of the instance loss"""
    gamma: NonNegativeFloat = 0.01
    """weight of the rotation loss"""
    kd: NonNegativeFloat | None = None
    """weight of the distance between features, in place of 1 - alpha"""
    category: NonNegativeFloat | None = None
    """weight of the category loss, in place of beta"""
    instance: NonNegativeFloat | None = None
    """weight of the instance loss, in place of beta"""
    temperature: PositiveFloat = 0.3
    """t of the category loss"""
    instance_temperature: PositiveFloat = 1.0
    """temperature of the instance loss (1: as in the paper, which has no temperature there)"""
    student_negatives: bool = False
    """the instance loss also uses the student's embeddings of other images as negatives, not the teacher's alone"""
    mixup: NonNegativeFloat = 8.0
    """delta: images of the category loss are mixed with weights from Beta(delta, delta); 0: no mixup"""
    embedding: PositiveInt = leaf(128, Role.NETWORK)
    """dimensions of the embeddings that the category and the instance loss compare"""
    prototypes: Literal["labelled", "clean"] = "labelled"
    """images that class prototypes are made of: the clean and the closed set, or the clean set alone"""
    prototype_momentum: ClosedUnitInterval = 0.0
    """what stays of the prototypes from one epoch to the next; 1: the prototypes of the first epoch are kept"""
    hint: Literal["pooled", "map"] = "pooled"
    """features that the student is to match of the teacher: after pooling, or the last feature map before pooling"""
    batchnorm: Literal["labelled", "all"] = "labelled"
    """images that the running statistics are of: labelled images alone, or mixed and rotated images, too"""
    open_batch_size: PositiveInt = 64
    """images of the open set in each optimizer step over all ranks, each in four rotations"""
    mix_ce: bool = leaf(False, Role.RESULT, added=True)
    """take the cross entropy of mixed images, under both labels, in place of plain ones (MODUL eq. 15 for eq. 19)"""
    labels: Literal["fixed", "online"] = leaf("fixed", Role.RESULT, added=True)
    """labels of the closed set.  fixed: the division's; online: what the teacher says of the present view, in every
    step, as in the authors' code"""
    drawn: Literal["pool", "halves"] = leaf("pool", Role.RESULT, added=True)
    """how clean and closed images are drawn.  pool: as often as there are of them; halves: every batch is half clean,
    half closed, and an epoch a pass over the clean set, as in the authors' code"""
    augmix: Literal["none", "whole", "last"] = leaf("none", Role.RESULT, added=True)
    """mix images not with each other alone, but with an AugMix view of each, too, and these with each other, as in the
    authors' code.  whole: AugMix as published; last: without the first two of its three chains, as in their code"""
    soft: NonNegativeFloat = leaf(0.0, Role.RESULT, added=True)
    """weight of T^2 KL on labelled images; not in the paper, like the next three"""
    soft_mixed: NonNegativeFloat = leaf(0.0, Role.RESULT, added=True)
    """weight of T^2 KL on mixed images"""
    soft_open: NonNegativeFloat = leaf(0.0, Role.RESULT, added=True)
    """weight of T^2 KL on images of the open set, not rotated"""
    soft_temperature: PositiveFloat = leaf(4.0, Role.RESULT, added=True)
    """T of soft, soft_mixed and soft_open"""

    def __post_init__(self) -> None:
        if self.soft_mixed and not self.mixup:
            raise ConfigError("modul.soft_mixed is of mixed images, but modul.mixup=0 mixes none")
        if self.mix_ce and not self.mixup:
            raise ConfigError("modul.mix_ce=true is of mixed images, but modul.mixup=0 mixes none")
        if self.augmix != "none" and not self.mixup:
            raise ConfigError(f"modul.augmix={self.augmix} gives views to mix, but modul.mixup=0 mixes none")


class Outputs(NamedTuple):
    """Outputs of the student for a batch; `logits` first, as an evaluation expects.  None: output was not requested."""

    logits: Tensor
    """b x classes"""
    hint: Any
    """b x D, D as for the teacher's features: the student's features, mapped to the teacher's width"""
    student: Any
    teacher: Any
    """embeddings b x D of both networks"""
    mixed_student: Any
    mixed_teacher: Any
    """embeddings m x D of mixed images, of both networks; m is b, or 2b with modul.augmix"""
    turned: Any
    """4b' x 4 logits of the rotations of open-set images"""
    mixed_logits: Any
    """m x classes, of mixed images"""
    open_logits: Any
    """b' x classes, of open-set images that are not rotated"""


class Student(nn.Module):
    """Encoder, head and all other trained layers in one module, since DDP needs a single forward pass per step."""

    def __init__(self, body: Encoder, classes: int, taught: int, config: ModulConfig, weights: Mapping[str, float]):
        super().__init__()
        width = body.out_features
        self.encoder = body
        self.head = linear_head(body, classes)
        # Layers that no term needs are not made: DDP waits for the gradient of every parameter.
        self.hint: nn.Module | None = None
        self.student_embedding = self.teacher_embedding = self.rotation = None
        if weights["kd"]:
            self.hint = nn.Linear(width, taught) if width != taught else nn.Identity()
        if weights["category"] or weights["instance"]:
            self.student_embedding = nn.Linear(width, config.embedding)
            self.teacher_embedding = nn.Linear(taught, config.embedding)
        if weights["rotation"]:
            self.rotation = nn.Linear(width, 4)
        self.maps = config.hint == "map"
        self.forgets = config.batchnorm == "labelled"
        self.names_mixed, self.names_open = bool(weights["soft_mixed"] or config.mix_ce), bool(weights["soft_open"])

    def forward(
        self,
        images: Tensor,
        taught: Tensor | None = None,
        mixed: Tensor | None = None,
        mixed_taught: Tensor | None = None,
        opened: Tensor | None = None,
    ) -> Outputs:
        """Compute all outputs that the terms of the loss need.

        images: b x 3 x S x S.
        taught: b x D, the teacher's pooled features of `images`.
        mixed, mixed_taught: m mixed images and the teacher's features of these.
        opened: images of the open set; 4b' x 3 x S x S, each in four rotations, if rotations are learned, else
            b' x 3 x S x S.

        Batch normalisation treats plain, mixed and open-set images as three separate batches.
        """
        maps = self.encoder.maps(images)
        features = self.encoder.pool(maps)
        hint = None
        if taught is not None and self.hint is not None:
            # On a map, a linear layer over the channels is a 1 x 1 convolution.
            hint = self.hint(maps.permute(0, 2, 3, 1)) if self.maps else self.hint(features)
        with statistics_kept(self.encoder) if self.forgets else contextlib.nullcontext():
            features_mixed = None if mixed is None else self.encoder(mixed)
            features_open = None if opened is None else self.encoder(opened)
        turns = None if features_open is None or self.rotation is None else self.rotation(features_open)
        upright = features_open if features_open is None or self.rotation is None else features_open[::4]
        return Outputs(
            self.head(features),
            hint,
            self._embed(self.student_embedding, features if taught is not None else None),
            self._embed(self.teacher_embedding, taught),
            self._embed(self.student_embedding, features_mixed),
            self._embed(self.teacher_embedding, mixed_taught),
            turns,
            self.head(features_mixed) if features_mixed is not None and self.names_mixed else None,
            self.head(upright) if upright is not None and self.names_open else None,
        )

    @staticmethod
    def _embed(embedding: nn.Linear | None, features: Tensor | None) -> Tensor | None:
        """Embed features (eq. 8, 10) as rows of length 1; None without a layer or features."""
        if embedding is None or features is None:
            return None
        z = embedding(features)
        return F.normalize(z.float() if z.itemsize < 4 else z)


class Modul(TrainingStage):
    """Minimises eq. 21: clean images with given labels, closed-set images with the teacher's, open-set rotations.

    Any robust loss can replace the cross entropy (sec. IV-D).  With the weights modul.soft, modul.soft_mixed and
    modul.soft_open the student also learns softened outputs of the teacher for labelled, mixed and open-set images.
    """

    sections: ClassVar[Mapping[str, type]] = {"student": StudentConfig, "modul": ModulConfig, "loss": LossConfig}
    added = frozenset({"loss"})
    recipe = "student"
    net: Student

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        return ("teacher", "division")

    @classmethod
    def check(cls, config: StageConfig) -> None:
        configured(config.section(LossConfig))

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        c = self.config = config.section(ModulConfig)
        self.optimization = config.section(StudentConfig)
        self.classes = data.classes
        self.divided = inputs["division"]
        self.weights = {
            "ce": c.alpha,
            "kd": 1 - c.alpha if c.kd is None else c.kd,
            "category": c.beta if c.category is None else c.category,
            "instance": c.beta if c.instance is None else c.instance,
            "rotation": c.gamma,
            "soft": c.soft,
            "soft_mixed": c.soft_mixed,
            "soft_open": c.soft_open,
        }
        if not (self.divided["sets"] == OPEN).any():
            self.weights |= {"rotation": 0.0, "soft_open": 0.0}
        if not any(self.weights.values()):
            raise ConfigError("modul: all weights are 0, so there is nothing to learn")
        self.mixes = bool(c.mixup and (self.weights["category"] or self.weights["soft_mixed"] or c.mix_ce))
        if self.mixes and c.augmix != "none":
            self.views = ("weak", "augmix" if c.augmix == "whole" else "augmix_last")
        body = encoder(config.model.name, config.model.width, config.model.init)
        self.teacher = frozen_classifier(inputs["teacher"])
        taught = self.teacher.encoder
        if c.hint == "map" and body.stride != taught.stride:
            raise ConfigError(
                f"modul.hint=map: the last maps of {config.model.name} and of the teacher differ in size; "
                "choose modul.hint=pooled"
            )
        self.net = Student(body, data.classes, taught.out_features, c, self.weights)
        self.ce, self.loss = CE(), configured(config.section(LossConfig))
        self.draws = config.seed
        self.memory = {"prototypes": torch.zeros(data.classes, c.embedding, dtype=torch.float64)}
        if c.labels == "online":
            self.memory["closed"] = torch.zeros(data.images, dtype=torch.int64)  # 1 for an image of the closed set

    def frozen(self) -> list[nn.Module]:
        return [self.teacher]

    @property
    def prototypes(self) -> Tensor:
        """Prototypes C x D float64: a unit vector for each class, zeros for a class without images."""
        return self.memory["prototypes"]

    def prepare(self, source: Loaders, labels: LabelView) -> None:
        """Split the images by the division, and compute the teacher's features of the labelled images."""
        self.labelled, self.opened = divided(labels, self.divided)
        if self.weights["category"]:
            self._look(source, self.labelled)
        if self.config.labels == "online":
            rows = labels.rows_of(self.divided["indices"].numpy())
            closed = (self.divided["sets"] == CLOSED).long().to(source.device)
            self.memory["closed"].index_copy_(0, torch.from_numpy(labels.rows[rows]).to(source.device), closed)

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        """Batches of labelled images, of the clean and of the closed set, each paired with a batch of the open set."""
        size = self.optimization.batch_size
        loader: Loader | None = None
        if self.config.drawn == "halves":
            clean = self.divided["indices"].numpy()[self.divided["sets"].numpy() == CLEAN]
            is_clean = np.isin(self.labelled.indices, clean)
            if is_clean.any() and not is_clean.all():
                loader = source.balanced(self.labelled, is_clean, self.views, size, seed)
        if loader is None:
            loader = source.training(self.labelled, self.views, size, seed)
        if not (self.weights["rotation"] or self.weights["soft_open"]):
            return loader
        size = min(self.config.open_batch_size, len(self.opened))
        return Paired(loader, source.training(self.opened, self.views[:1], size, seed))

    def start_epoch(self) -> None:
        """Recompute the class prototypes (eq. 9) with the present projection of the teacher's features."""
        if not self.weights["category"] or self.net.teacher_embedding is None:
            return
        with torch.no_grad():
            z = F.normalize(self.net.teacher_embedding(self._features))
            sums, counts = class_sums(z[self._chosen], self._targets[self._chosen], self.classes)
            # The prototype of a class without labelled images comes from the images that the teacher predicts as it.
            sums_seen, counts_seen = class_sums(z, self._predicted, self.classes)
            missing = counts == 0
            fresh = prototypes(
                torch.where(missing[:, None], sums_seen, sums), torch.where(missing, counts_seen, counts)
            )
            momentum = self.config.prototype_momentum if self.prototypes.any() else 0.0
            blended = momentum * self.prototypes + (1 - momentum) * fresh
            self.prototypes.copy_(F.normalize(blended))

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        c, weights = self.config, self.weights
        view = batch.views[0]
        mix = mixed = mixed_taught = turns = said_open = None
        if self.mixes:
            mix = mixup.draw(self.draws, batch.epoch, batch.number, sum(batch.sizes) * len(batch.views), c.mixup)
            mixed = mixup.mixed(*self._pairs(batch.views, batch, mix), mix.weight)
        opened = batch.extra if weights["rotation"] or weights["soft_open"] else None
        shown = None if opened is None else opened.views[0]
        if shown is not None and weights["rotation"]:
            shown, turns = rotated(shown)
        with torch.no_grad():
            maps = self.teacher.encoder.maps(view)
            taught = self.teacher.encoder.pool(maps)
            if mixed is not None:
                mixed_taught = self.teacher.encoder(mixed)
            if opened is not None and weights["soft_open"]:
                said_open, _ = self.teacher(opened.views[0])
            if c.labels == "online":
                said = self.teacher.head(taught).argmax(dim=1)
                batch = replace(batch, labels=torch.where(self.memory["closed"][batch.rows] > 0, said, batch.labels))
        out: Outputs = net(view, taught, mixed, mixed_taught, shown)

        terms = {"ce": self._named(out, batch, mix)}
        if weights["kd"]:
            terms["kd"] = hint_loss(out.hint, maps.permute(0, 2, 3, 1) if c.hint == "map" else taught)
        if weights["category"]:
            pair = (out.teacher, out.student) if mix is None else (out.mixed_teacher, out.mixed_student)
            teacher, student = (self._category(z, batch, mix) for z in pair)
            terms["category"] = teacher + student
        if weights["instance"]:
            terms["instance"] = instance_loss(
                out.student, out.teacher, batch.sizes, c.instance_temperature, c.student_negatives
            )
        if weights["soft"]:
            terms["soft"] = kd_loss(out.logits, self.teacher.head(taught), c.soft_temperature)
        if weights["soft_mixed"]:
            terms["soft_mixed"] = kd_loss(out.mixed_logits, self.teacher.head(mixed_taught), c.soft_temperature)
        means = {name: batch_mean(values, batch) for name, values in terms.items()}
        if opened is not None and turns is not None:
            means["rotation"] = batch_mean(self.ce(out.turned, turns), opened)
        if opened is not None and said_open is not None:
            means["soft_open"] = batch_mean(kd_loss(out.open_logits, said_open, c.soft_temperature), opened)
        loss = torch.stack([weights[name] * mean for name, mean in means.items()]).sum()
        parts = {f"loss_{name}": mean.detach() for name, mean in means.items()}
        shares = {} if c.labels == "online" else fitted(out.logits, batch)
        return {"loss": loss, **parts, **shares}

    def _named(self, out: Outputs, batch: Batch, mix: mixup.Mix | None) -> Tensor:
        """The loss in the place of the cross entropy -> a value for each: plain image, or with mix_ce mixed image."""
        if not self.config.mix_ce or mix is None:
            return self.loss(out.logits, batch.labels)
        own, others = (self.loss(out.mixed_logits, labels) for labels in self._labels(batch, mix))
        return mixup.mixed(own, others, mix.weight)

    def _category(self, z: Tensor, batch: Batch, mix: mixup.Mix | None) -> Tensor:
        """Category loss of embeddings -> a value for each: eq. 11 (b x D), or eq. 15 for mixed images (m x D)."""
        if mix is None:
            return prototypical_loss(z, batch.labels, self.prototypes, self.config.temperature)
        own, others = (
            prototypical_loss(z, labels, self.prototypes, self.config.temperature)
            for labels in self._labels(batch, mix)
        )
        return mixup.mixed(own, others, mix.weight)

    def _labels(self, batch: Batch, mix: mixup.Mix) -> tuple[Tensor, Tensor]:
        """Labels of the images that are mixed, and of their partners; all views of an image have its label."""
        return self._pairs([batch.labels] * len(batch.views), batch, mix)

    @staticmethod
    def _pairs(views: Sequence[Tensor], batch: Batch, mix: mixup.Mix) -> tuple[Tensor, Tensor]:
        """This rank's rows of all views of the batch, one view after another, and the rows of their partners."""
        return mixup.partners_across(views, [batch.sizes] * len(views), mix, rank())

    def artefact(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.net.named_children()}

    def _look(self, source: Loaders, labelled: LabelView) -> None:
        """Store the teacher's features of this rank's share of the labelled images, since they never change."""
        self._features, indices = own_share(source, labelled, lambda images, _: self.teacher.encoder(images))
        order = self.divided["indices"].argsort()
        rows = order[torch.searchsorted(self.divided["indices"][order], indices.cpu())]
        device = self._features.device
        self._targets, self._predicted = (self.divided[name][rows].to(device) for name in ("labels", "predicted"))
        sets = self.divided["sets"][rows].to(device)
        self._chosen = sets == CLEAN if self.config.prototypes == "clean" else sets != OPEN
