"""Refines the label of every training image by its nearest neighbours, and weights the image (not in the papers)."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dist_rmd.config import Role, StageConfig, leaf
from dist_rmd.config.key_types import ClosedUnitInterval, FilePath
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.models.encoder import Encoder, frozen_encoder
from dist_rmd.models.heads import frozen_classifier
from dist_rmd.stages._label_free import LabelFree
from dist_rmd.stages._student import score_images
from dist_rmd.stages.base import ComputationStage, DataInfo
from dist_rmd.suspects.probabilities import Probabilities
from dist_rmd.suspects.scores import suspicion

__all__ = ["Relabel"]


@dataclass(frozen=True)
class RelabelConfig:
    """Stage `relabel`: labels by an image's neighbours, which task.relabel=true lets later stages learn."""

    student: Literal["none", "classifier", "elr"] = "none"
    """stage whose network has a say, too, of another run (inputs.classifier=<its folder>).  The network must not have
    memorised the wrong labels: take a classifier that was trained for a few epochs, or elr"""
    student_weight: ClosedUnitInterval = 0.5
    """weight of the student's probabilities; the probabilities from the neighbours have 1 - student_weight"""
    teacher: LabelFree = leaf("simsiam", Role.RESULT, added=True)
    """the stage in whose features images are neighbours"""
    file: FilePath | None = leaf(None, Role.PLACE)
    """probabilities.npz that `report suspects` wrote for the same images and labels: the stage takes its probabilities
    from this file, and needs no features"""
    soft: bool = leaf(False, Role.RESULT, added=True)
    """later stages learn each image under all classes, each class with its probability, in place of the most probable
    class with the image's weight"""
    keep: bool = leaf(False, Role.RESULT, added=True)
    """later stages learn each image under its given label, with the weight of the probability that this label is right,
    in place of the most probable class with its probability"""

    def __post_init__(self) -> None:
        if self.soft and self.keep:
            raise ConfigError("relabel.soft and relabel.keep: an image is learned in one way; choose one of the two")


class Relabel(ComputationStage):
    """Estimates class probabilities p_i of every image from the labels of images with similar features.

    Later stages learn an image under the label c = argmax p_i, or with keep=true under its given label, with the
    weight p_ic.  dist_rmd.suspects.scores computes p_i from the labels of the nearest neighbours (leave-one-out),
    out-of-fold Gaussians of the classes, the given label, and an estimate of how often each class is given as each
    other class.  No true label is used.
    """

    sections: ClassVar[Mapping[str, type]] = {"relabel": RelabelConfig}

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        own = config.section(RelabelConfig)
        return (own.teacher,) * (own.file is None) + (own.student,) * (own.student != "none")

    @classmethod
    def files(cls, config: StageConfig) -> dict[str, str]:
        file = config.section(RelabelConfig).file
        return {} if file is None else {"relabel.file": file}

    @classmethod
    def check(cls, config: StageConfig) -> None:
        own = config.section(RelabelConfig)
        if own.file is not None and own.student != "none":
            raise ConfigError(
                f"relabel.student={own.student}: the probabilities in relabel.file={own.file} are taken as they are; "
                "leave out one of the two"
            )

    @classmethod
    def seed(cls, config: StageConfig) -> int:
        """Return 0: the stage draws nothing."""
        return 0

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        self.config = config.section(RelabelConfig)
        self.classes = data.classes
        brought = self.config.file is not None
        self.teacher = None if brought else frozen_encoder(inputs[self.config.teacher])
        student = self.config.student
        self.student = None if student == "none" else frozen_classifier(inputs[student])

    def frozen(self) -> list[nn.Module]:
        return [net for net in (self.teacher, self.student) if net is not None]

    def compute(self, source: Loaders, labels: LabelView, proceed: Callable[[float], None]) -> dict[str, float]:
        if self.config.file is not None:
            posterior = probabilities(Path(self.config.file), labels)
        else:
            assert self.teacher is not None
            posterior = self._judged(self.teacher, source, labels, proceed)
        probable, _ = posterior.probable()
        learned = torch.from_numpy(labels.given) if self.config.keep else probable
        self._keep(labels, learned, posterior.of(learned), posterior)
        return self._metrics(labels, probable.numpy())

    def _judged(
        self, teacher: Encoder, source: Loaders, labels: LabelView, proceed: Callable[[float], None]
    ) -> Probabilities:
        """The probabilities p_i, on the CPU."""

        def judge(images: Tensor, given: Tensor) -> Tensor:
            """b x (D + C) features and the student's probabilities; b x D features without a student."""
            parts = [teacher(images)]
            if self.student is not None:
                parts.append(self.student(images)[0].softmax(dim=1))
            return torch.cat(parts, dim=1)

        rows = score_images(source, labels, judge, proceed).float()
        features, said = rows.tensor_split([teacher.out_features], dim=1)
        given = torch.from_numpy(labels.given).to(rows.device)
        try:
            posterior = suspicion(features, given, self.classes).posterior
        except ValueError as error:
            raise DataError(f"stage relabel: {error}") from None
        if self.student is not None:
            heard = (block.lerp(said[rows], self.config.student_weight) for rows, block in posterior.blocks())
            posterior = Probabilities.kept(heard, given, self.classes)
        return posterior.to(torch.device("cpu"))

    def pretend(self, labels: LabelView) -> None:
        """Keep every given label, with weight 1."""
        given = torch.from_numpy(labels.given)
        self._keep(labels, given, torch.ones(len(labels)), Probabilities.certain(given, self.classes))

    def _keep(self, labels: LabelView, learned: Tensor, weights: Tensor, posterior: Probabilities) -> None:
        self._artefact = {
            "indices": torch.from_numpy(labels.indices),
            "given": torch.from_numpy(labels.given),
            "labels": learned,
            "weights": weights,
            **({"probabilities": posterior.dense()} if self.config.soft else {}),
        }

    @classmethod
    def summary(cls, metrics: Mapping[str, float]) -> str:
        said = f"another class than the given one is more probable for {metrics['relabel/changed']:.1f} % of the images"
        if "relabel/right" not in metrics:
            return said
        return f"{said}; {metrics['relabel/right']:.1f} % are right, {metrics['relabel/right_given']:.1f} % as given"

    def artefact(self) -> dict[str, Any]:
        """indices, given, labels: N int64, positions of the images in the beton, given labels and labels to learn;
        weights: N float32, 0..1, probabilities of the labels to learn; with relabel.soft also probabilities: N x C
        float32."""
        return self._artefact

    def _metrics(self, labels: LabelView, probable: Any) -> dict[str, float]:
        """Percent of images whose most probable class is not the given one; if the true labels are known, also percent
        of right labels, given and most probable."""
        found = {"relabel/changed": 100 * float(np.mean(probable != labels.given))}
        if labels.true is not None:
            found["relabel/right_given"] = 100 * float(np.mean(labels.given == labels.true))
            found["relabel/right"] = 100 * float(np.mean(probable == labels.true))
        return found


def probabilities(file: Path, labels: LabelView) -> Probabilities:
    """Read the probabilities of the classes that `report suspects` wrote for the images of `labels`.

    Raises DataError where the file is none of these, or is about other images or other given labels.
    """
    try:
        with np.load(file, allow_pickle=False) as found:
            indices, given, shares = found["indices"], found["given"], Probabilities.loaded(found)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"relabel.file={file}: no probabilities.npz of report suspects ({error})") from None
    if not (np.array_equal(indices, labels.indices) and np.array_equal(given, labels.given)):
        raise DataError(
            f"relabel.file={file}: is about {len(indices)} labels, which are not the {len(labels)} labels of this run: "
            "take the file of a run on the same images under the same labels"
        )
    return shares
