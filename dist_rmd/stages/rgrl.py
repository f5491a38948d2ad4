"""Relation-guided representation learning: RMDNet's second module (RMDNet sec. 3.3)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from dist_rmd.config import Model, Role, StageConfig, leaf
from dist_rmd.config.key_types import NonNegativeFloat
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill.dist import dist_loss
from dist_rmd.distill.overlapped import OverlappedTeacher
from dist_rmd.distill.relation import RelationLoss
from dist_rmd.errors import ConfigError
from dist_rmd.losses.ce import CE
from dist_rmd.models.encoder import encoder, frozen_encoder
from dist_rmd.models.encoders.projected import Projected
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.stages._label_free import LabelFree
from dist_rmd.stages._mixing import mix
from dist_rmd.stages._student import take_over
from dist_rmd.stages._task import Seen, TaskStage
from dist_rmd.stages.base import DataInfo, batch_mean
from dist_rmd.stages.classifier import Classifier

__all__ = ["RGRL"]


@dataclass(frozen=True)
class RelationConfig:
    """The relation term of stage `rgrl` (RMDNet eq. 10, 11)."""

    teacher: Literal[LabelFree, "random"] = "simsiam"
    """the stage whose encoder teaches, the paper's simsiam or another one without labels; random: an encoder that stays
    as initialised, the ablation without representation learning (RMDNet table 2, CE+RGRL)"""
    k: NonNegativeFloat = 1.0
    """K, weight of the relation loss beside the robust loss; 0 is the baseline"""
    node: NonNegativeFloat = 0.8
    """weight of node matching"""
    edge: NonNegativeFloat = 0.35
    """weight of edge matching"""
    norm: Literal["fro", "rms"] = "fro"
    """norm of the matrices.  fro: Frobenius, as in the paper; rms: fro / batch size, the root mean square of the
    entries, with which a K has about the same effect at any batch size (docs/relation.md)"""
    node_pairs: Literal["all", "other_label", "self"] = "all"
    """pairs of images in node matching: all; other_label: not two images with one given label; self: each image with
    itself alone"""
    teacher_view: Literal["same", "other", "plain"] = "same"
    """images for the teacher.  same: the student's view; other: another weak view; plain: the image, unaugmented"""
    init_from_teacher: bool = False
    """the student's encoder starts as a copy of the teacher, not at random"""
    method: Literal["auto", "gather", "gram"] = "auto"
    """how the loss is computed, with one result: gather exchanges features, gram D x D matrices; auto: the faster"""
    form: Literal["rmdnet", "ega", "dist"] = leaf("rmdnet", Role.RESULT, added=True)
    """the relations that are matched.  rmdnet: between images (eq. 5-10), weighted by `node` and `edge`; ega: the same
    after a learned linear layer to 256 dimensions on either side, from which the student classifies, too (Ma et al.
    2022); dist: DIST's correlations (Huang et al. 2022), weighted by `inter` and `intra`"""
    inter: NonNegativeFloat = leaf(1.0, Role.RESULT, added=True)
    """form=dist: weight of the correlation of an image's features"""
    intra: NonNegativeFloat = leaf(1.0, Role.RESULT, added=True)
    """form=dist: weight of the correlation of a feature over the images"""

    def __post_init__(self) -> None:
        is_dist = self.form == "dist"
        others = ("node", "edge", "norm", "node_pairs", "method") if is_dist else ("inter", "intra")
        for key in others:
            if getattr(self, key) != getattr(type(self), key):
                owner = "rmdnet" if is_dist else "dist"
                raise ConfigError(f"relation.{key} is for relation.form={owner}, but the form is {self.form}")
        if self.method == "gram" and self.node_pairs != "all":
            raise ConfigError(
                f"relation.method=gram forms no pairs of images, which relation.node_pairs={self.node_pairs} is about: "
                "choose gather or auto"
            )


AHEAD = 5.0
"""points of accuracy by which a student may leave its teacher's neighbours behind before the user is told"""
VIEWS = {"same": ("weak",), "other": ("weak", "weak"), "plain": ("weak", "plain")}
TEACHER_LR = 0.01
"""learning rate of the teacher's layers with form=ega, constant as in the authors' code"""


class Aligned(nn.Module):
    """The student and the learned layers of the teacher's side, in embedding graph alignment.

    (images N x 3 x S x S, teacher's features N x T) -> (student's outputs, teacher's features mapped to N x D, logits
    of the mapped features N x classes).
    """

    def __init__(self, student: ImageClassifier, taught: int, classes: int):
        super().__init__()
        width = student.encoder.out_features
        self.student, self.projection, self.head = student, nn.Linear(taught, width), nn.Linear(width, classes)

    def forward(self, images: Tensor, taught: Tensor) -> tuple[Any, Tensor, Tensor]:
        projected = self.projection(taught)
        return self.student(images), projected, self.head(projected)


class Related(TaskStage):
    """Adds the relation loss to a method: L = its loss + K (node ||M - I||_F + edge ||E_t - E_s||_F).

    The teacher is the frozen encoder of a stage without labels, or a random one, in evaluation mode and without
    gradient; it sees the last view of a batch, the student the first, both mixed where images are.  Both matrices are
    over the pooled features of the global batch.  With relation.form=dist, DIST's loss takes the place of both.

    With relation.form=ega both matrices are over features that a linear layer has mapped to 256 dimensions, one for
    either side.  The student's layer belongs to its encoder.  The teacher's learns by cross entropy under the labels,
    with a linear head and a learning rate of its own; the relation loss does not reach it.
    """

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        teacher = config.section(RelationConfig).teacher
        return tuple(dict.fromkeys([*([] if teacher == "random" else [teacher]), *super().needs(config)]))

    @classmethod
    def model(cls, config: StageConfig) -> Model:
        """The run's encoder; with relation.form=ega with a linear layer on it."""
        own = super().model(config)
        return replace(own, name=f"projected/{own.name}") if config.section(RelationConfig).form == "ega" else own

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        super().__init__(config, data, inputs)  # the student's weights are drawn first: the same as the baseline's
        c = config.section(RelationConfig)
        self.views = VIEWS[c.teacher_view]
        self.k, self.taught_by = c.k, c.teacher
        self.form, self.inter, self.intra = c.form, c.inter, c.intra
        self.teacher_knn: float | None = None
        learned = None if c.teacher == "random" else inputs[c.teacher]
        if learned is not None:
            self.teacher_knn = next((v for tag, v in learned["scores"][-1].items() if "knn" in tag), None)
        self.relation = RelationLoss(c.node, c.edge, c.method, norm=c.norm, node_pairs=c.node_pairs)
        own, body = config.model, self.classifier.encoder
        if isinstance(body, Projected):
            own, body = replace(own, name=own.name.partition("/")[2]), body.net
        if learned is not None:
            self.teacher = frozen_encoder(learned)
        else:
            self.teacher = encoder(own.name, own.width, own.init).requires_grad_(False).eval()
        widths = self.teacher.out_features, self.classifier.encoder.out_features
        if widths[0] != widths[1] and c.form == "dist":
            raise ConfigError(
                f"relation.form=dist compares features one by one, but the teacher has {widths[0]} and the student "
                f"{widths[1]}: set relation.form=rmdnet and relation.node=0, which leaves edge matching",
                agreed=True,
            )
        if widths[0] != widths[1] and c.form == "rmdnet" and c.node:
            raise ConfigError(
                f"relation.node={c.node:g} compares features one by one, but the teacher has {widths[0]} and the "
                f"student {widths[1]}: set relation.node=0, which leaves edge matching",
                agreed=True,
            )
        if c.init_from_teacher and learned is not None:
            take_over(body, learned, own)
        elif c.init_from_teacher:
            body.load_state_dict(self.teacher.state_dict())
        if c.init_from_teacher:
            self.start_average()
        if c.form == "ega":
            self.net = Aligned(self.classifier, widths[0], data.classes)

    def param_groups(self) -> list[dict[str, Any]]:
        if not isinstance(self.net, Aligned):
            return super().param_groups()
        beside = [*self.net.projection.parameters(), *self.net.head.parameters()]
        return [
            {"params": list(self.net.student.parameters())},
            {"params": beside, "lr": TEACHER_LR, "constant_lr": True},
        ]

    def frozen(self) -> list[nn.Module]:
        return [*super().frozen(), self.teacher]

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        mixed = mix(batch, self.task.mixup, self.draws)
        lesson = OverlappedTeacher(self.teacher, mixed.views[-1])
        if self.form == "ega":
            outputs, targets, told = net(mixed.views[0], lesson.result())
            seen = Seen(*outputs)
        else:
            seen = self.look(net, mixed)
            targets = lesson.result()
        self.remember(seen, batch, mixed.other is not None)
        task = self.judged(seen, mixed)
        relation = self.relations(targets, seen.features, batch)
        loss = task["loss"] + self.k * relation["loss"]
        parts = {"loss_task": task["loss"].detach(), **task, **relation}
        if self.form == "ega":
            judged = mixed.terms(lambda b: {"teacher": CE()(told, b.labels)})
            beside = batch_mean(judged["teacher"], batch)
            loss, parts["loss_teacher"] = loss + beside, beside.detach()
        return {**parts, "loss": loss}

    def relations(self, teacher: Tensor, student: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The relation loss between features b x D, and its two parts, unweighted and without gradient."""
        if self.form == "dist":
            inter, intra = dist_loss(teacher, student, batch.sizes)
            loss = self.inter * inter + self.intra * intra
            return {"loss": loss, "loss_inter": inter.detach(), "loss_intra": intra.detach()}
        matched = self.relation(teacher, student, batch.sizes, batch.labels)
        return {"loss": matched.loss, "loss_node": matched.node, "loss_edge": matched.edge}

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        if said := super().warning(metrics):
            return f"{said}, and so may a smaller relation.k"
        accuracy = next((value for tag, value in metrics.items() if tag.startswith("test/top1")), 0.0)
        knn = self.teacher_knn
        if knn is None or accuracy < knn + AHEAD:
            return None
        self.teacher_knn = None  # said once
        return (
            f"the student is right in {accuracy:.1f} %, but neighbours in its teacher's features in {knn:.1f} % only: "
            "relations of so weak a teacher help only where the student would fall by memorising, and cost accuracy "
            "where it would not: compare with stage classifier, last epoch and best.  Train the teacher longer "
            f"({self.taught_by}.epochs; a larger augment.crop_min for small images), or take a smaller weight, such as "
            f"relation.k={self.k / 10:g} (docs/relation.md)"
        )


class RGRL(Related, Classifier):
    """RMDNet's second module: L = robust loss + K (node ||M - I||_F + edge ||E_t - E_s||_F) (RMDNet eq. 11)."""

    sections: ClassVar[Mapping[str, type]] = {**Classifier.sections, "relation": RelationConfig}
