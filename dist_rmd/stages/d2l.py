"""Dimensionality-driven learning (Ma et al. 2018, https://arxiv.org/abs/1806.02612)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dist_rmd.config import Role, StageConfig, leaf
from dist_rmd.config.key_types import PositiveInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distill.lid import chosen, lid
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.losses.ce import CE
from dist_rmd.losses.sce import SCE
from dist_rmd.models.average import average_of, move_average
from dist_rmd.stages._student import score_images
from dist_rmd.stages._task import Seen, TaskStage
from dist_rmd.stages.base import DataInfo

__all__ = ["D2L"]


@dataclass(frozen=True)
class D2LConfig:
    """Stage `d2l` (constants of the authors' code); optimizer and schedule are those of section `task`."""

    k: PositiveInt = 20
    """neighbours from which the dimensionality at an image is estimated"""
    lid_batch: PositiveInt = 128
    """images among which the neighbours of an image are searched"""
    lid_images: PositiveInt = 1280
    """images, drawn anew for every epoch, over which estimates are averaged"""
    init_epochs: PositiveInt = 5
    """first epochs, which are left out of the search for the turning point"""
    window: PositiveInt = 5
    """epochs whose mean and standard deviation of the dimensionality decide on the turning point"""
    before: Literal["ce", "sce"] = leaf("ce", Role.RESULT, added=True)
    """loss before the turn.  ce: cross entropy, as in the paper; sce: symmetric cross entropy with 0.1 and 1, as
    in the authors' repository by now"""

    def __post_init__(self) -> None:
        if self.k >= self.lid_batch:
            raise ConfigError(
                f"d2l.k={self.k} neighbours cannot be found among d2l.lid_batch={self.lid_batch} images: "
                "choose a smaller k or a larger batch"
            )
        if self.k >= self.lid_images:
            raise ConfigError(
                f"d2l.k={self.k} neighbours cannot be found among d2l.lid_images={self.lid_images} images: "
                "choose a smaller k or more images"
            )


class D2L(TaskStage):
    """Cross entropy with y* = alpha y + (1 - alpha) onehot(argmax p), where alpha = 1 up to the turning point.

    At the start of each epoch the local intrinsic dimensionality (LID) of the features is measured.  At the turning
    point the LID is more than two standard deviations above its mean over the last epochs: the network has begun to fit
    wrong labels.  The weights of the epoch before are restored, and from then on
    alpha = exp(-(epoch / epochs) LID / least LID).  The optimizer keeps its momentum, as in the authors' code.
    """

    sections: ClassVar[Mapping[str, type]] = {**TaskStage.sections, "d2l": D2LConfig}

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        super().__init__(config, data, inputs)
        c = self.config = config.section(D2LConfig)
        self.averages = {**self.averages, "before": average_of(self.net)}
        self.memory = {
            "epochs": torch.zeros(1, dtype=torch.int64),
            "turned": torch.zeros(1, dtype=torch.int64),
            "lids": torch.zeros(c.window + 1, dtype=torch.float64),  # LIDs of the last epochs, the newest last
            "least": torch.full((1,), math.inf, dtype=torch.float64),
            "alpha": torch.ones(1, dtype=torch.float64),
        }
        self.ce = CE()
        self.before = self.ce if c.before == "ce" else SCE(0.1, 1.0)

    def prepare(self, source: Loaders, labels: LabelView) -> None:
        super().prepare(source, labels)
        if len(self.learned) <= self.config.k:
            raise DataError(
                f"d2l.k={self.config.k} neighbours cannot be found among {len(self.learned)} images: choose a smaller k"
            )

    def start_epoch(self) -> None:
        memory, window = self.memory, self.config.window
        epoch, lids = int(memory["epochs"]), memory["lids"]
        found = self._dimensionality(epoch)
        newest = torch.where(found > 0, found, lids[-1])  # identical features have no LID
        lids.copy_(torch.cat([lids[1:], newest[None]]))
        if newest > 0:
            memory["least"].copy_(torch.minimum(memory["least"], newest))
        memory["epochs"] += 1
        last = lids[:-1]
        if not memory["turned"] and epoch >= self.config.init_epochs + window:
            memory["turned"] += (newest - last.mean() > 2 * last.std(correction=0)).long()
            if memory["turned"]:
                self.net.load_state_dict(self.averages["before"].state_dict())
                if "average" in self.averages:
                    move_average(self.averages["average"], self.classifier, 0.0)
        if memory["turned"]:
            share = epoch / self.optimization.epochs
            memory["alpha"].copy_((-share * newest / memory["least"]).exp())
        else:
            move_average(self.averages["before"], self.net, 0.0)

    def _dimensionality(self, epoch: int) -> Tensor:
        """Mean LID, 0-d float64, the same on all ranks, of the pooled features of the epoch's sample of images."""
        c = self.config
        rows = chosen(len(self.learned), c.lid_images, self.draws, epoch)
        self.net.eval()
        features = score_images(
            self.source, self.learned.part(rows), lambda images, _: self.classifier.encoder(images), lambda share: None
        )
        self.net.train()
        parts = [part for part in features.split(c.lid_batch) if len(part) > c.k]
        return torch.cat([lid(part, c.k) for part in parts]).mean()

    def terms(self, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        predicted = seen.logits.detach().argmax(dim=1)
        given, own = self.ce(seen.logits, batch.labels), self.ce(seen.logits, predicted)
        alpha = self.memory["alpha"].to(given.dtype)
        task = alpha * given + (1 - alpha) * own
        if self.before is not self.ce:
            task = torch.where(self.memory["turned"] > 0, task, self.before(seen.logits, batch.labels))
        return {"task": task}

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        measured = {"lid": self.memory["lids"][-1], "alpha": self.memory["alpha"][0]}
        return {**super().losses(net, batch), **measured}
