"""Relation-guided representation learning: RMDNet's second module (RMDNet sec. 3.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from dist_rmd.config import Role, StageConfig, leaf
from dist_rmd.config.key_types import NonNegativeFloat
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill.dist import dist_loss
from dist_rmd.distill.overlapped import OverlappedTeacher
from dist_rmd.distill.relation import RelationLoss
from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import encoder, frozen_encoder
from dist_rmd.stages._label_free import LabelFree
from dist_rmd.stages._mixing import mix
from dist_rmd.stages._student import take_over
from dist_rmd.stages._task import TaskStage
from dist_rmd.stages.base import DataInfo
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
    form: Literal["rmdnet", "dist"] = leaf("rmdnet", Role.RESULT, added=True)
    """the relations that are matched.  rmdnet: between images (eq. 5-10), weighted by `node` and `edge`; dist: DIST's
    correlations (Huang et al. 2022), weighted by `inter` and `intra`"""
    inter: NonNegativeFloat = leaf(1.0, Role.RESULT, added=True)
    """form=dist: weight of the correlation of an image's features"""
    intra: NonNegativeFloat = leaf(1.0, Role.RESULT, added=True)
    """form=dist: weight of the correlation of a feature over the images"""

    def __post_init__(self) -> None:
        others = ("inter", "intra") if self.form == "rmdnet" else ("node", "edge", "norm", "node_pairs", "method")
        for key in others:
            if getattr(self, key) != getattr(type(self), key):
                owner = "dist" if self.form == "rmdnet" else "rmdnet"
                raise ConfigError(f"relation.{key} is for relation.form={owner}, but the form is {self.form}")
        if self.method == "gram" and self.node_pairs != "all":
            raise ConfigError(
                f"relation.method=gram forms no pairs of images, which relation.node_pairs={self.node_pairs} is about: "
                "choose gather or auto"
            )


AHEAD = 5.0
"""points of accuracy by which a student may leave its teacher's neighbours behind before the user is told"""
VIEWS = {"same": ("weak",), "other": ("weak", "weak"), "plain": ("weak", "plain")}


class Related(TaskStage):
    """Adds the relation loss to a method: L = its loss + K (node ||M - I||_F + edge ||E_t - E_s||_F).

    The teacher is the frozen encoder of a stage without labels, or a random one, in evaluation mode and without
    gradient; it sees the last view of a batch, the student the first, both mixed where images are.  Both matrices are
    over the pooled features of the global batch.  With relation.form=dist, DIST's loss takes the place of both.
    """

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        teacher = config.section(RelationConfig).teacher
        return (*([] if teacher == "random" else [teacher]), *super().needs(config))

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
        if learned is not None:
            self.teacher = frozen_encoder(learned)
        else:
            random = encoder(config.model.name, config.model.width, config.model.init)
            self.teacher = random.requires_grad_(False).eval()
        widths = self.teacher.out_features, self.net.encoder.out_features
        if widths[0] != widths[1] and c.form == "dist":
            raise ConfigError(
                f"relation.form=dist compares features one by one, but the teacher has {widths[0]} and the student "
                f"{widths[1]}: set relation.form=rmdnet and relation.node=0, which leaves edge matching",
                agreed=True,
            )
        if widths[0] != widths[1] and c.node:
            raise ConfigError(
                f"relation.node={c.node:g} compares features one by one, but the teacher has {widths[0]} and the "
                f"student {widths[1]}: set relation.node=0, which leaves edge matching",
                agreed=True,
            )
        if c.init_from_teacher and learned is not None:
            take_over(self.net.encoder, learned, config.model)
        elif c.init_from_teacher:
            self.net.encoder.load_state_dict(self.teacher.state_dict())
        if c.init_from_teacher:
            self.start_average()

    def frozen(self) -> list[nn.Module]:
        return [*super().frozen(), self.teacher]

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        mixed = mix(batch, self.task.mixup, self.draws)
        lesson = OverlappedTeacher(self.teacher, mixed.views[-1])
        seen = self.look(net, mixed)
        self.remember(seen, batch, mixed.other is not None)
        targets = lesson.result()
        task = self.judged(seen, mixed)
        relation = self.relations(targets, seen.features, batch)
        return {
            "loss_task": task["loss"].detach(),
            **task,
            **relation,
            "loss": task["loss"] + self.k * relation["loss"],
        }

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
            f"relations of so weak a teacher cost accuracy; train it longer ({self.taught_by}.epochs; a larger "
            "augment.crop_min for small images), or take a relation.k of 0.1 or less (docs/relation.md)"
        )


class RGRL(Related, Classifier):
    """RMDNet's second module: L = robust loss + K (node ||M - I||_F + edge ||E_t - E_s||_F) (RMDNet eq. 11)."""

    sections: ClassVar[Mapping[str, type]] = {**Classifier.sections, "relation": RelationConfig}
