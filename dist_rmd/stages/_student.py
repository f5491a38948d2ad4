"""Shared parts of stages that distil a student: recipe, weights to start from, scores of all images by a teacher."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_rmd.config import Model, Optimization, Schedule
from dist_rmd.config.key_types import NonNegativeFloat, NonNegativeInt
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.distributed.collectives import all_gather_rows, gather_sizes
from dist_rmd.errors import ConfigError


@dataclass(frozen=True)
class StudentConfig(Optimization):
    """The student, trained by the stages `modul`, `vkd` and `dfnd` alike (MODUL sec. V-B)."""

    weight_decay: NonNegativeFloat = 1e-4
    """weight decay, on all parameters"""
    schedule: Schedule = "step"
    """cosine: to zero over all steps; restarts: a cosine from each of `milestones` to the next, down to `gamma` of the
    initial rate; step: times `gamma` at each of `milestones`"""
    milestones: tuple[NonNegativeInt, ...] = (80, 160)
    """epochs after which schedule=step lowers the learning rate, or schedule=restarts begins anew"""


def take_over(net: nn.Module, artefact: Mapping[str, Any], own: Model) -> None:
    """Load an artefact's weights into the encoder `net` of the model `own`.  Raises ConfigError for another model."""
    name, width = artefact["model"]["name"], artefact["model"]["width"]
    if (name, width) != (own.name, own.width):
        raise ConfigError(
            f"an encoder that starts from other weights must be of their kind: they are of model.name={name} "
            f"model.width={width}, but the run has {own.name} and {own.width}",
            agreed=True,
        )
    net.load_state_dict(artefact["encoder"])


Scorer = Callable[[Tensor, Tensor], Tensor]
"""(images b x 3 x S x S, given labels b) -> b rows of numbers"""


def score_images(source: Loaders, labels: LabelView, judge: Scorer, proceed: Callable[[float], None]) -> Tensor:
    """Apply `judge` to every training image of `labels`; returns N rows on every rank, in the order of `labels`.

    The ranks share the images; each image is seen once, in the plain view.  The result is the same to the bit on any
    number of ranks, if all machines are of one kind.  proceed: called between batches with the share of images done.
    """
    judged, indices = own_share(source, labels, judge, proceed)
    sizes = gather_sizes(len(indices), indices.device)
    rows, indices = (all_gather_rows(column, sizes) for column in (judged, indices))
    place = torch.from_numpy(labels.indices.argsort().argsort()).to(source.device)
    return rows[indices.argsort()][place]


@torch.no_grad()
def own_share(
    source: Loaders, labels: LabelView, judge: Scorer, proceed: Callable[[float], None] = lambda share: None
) -> tuple[Tensor, Tensor]:
    """Scores of this rank's share of the images: n rows, and the images' positions in the beton, n int64."""
    loader = source.evaluation("train", labels, aligned=True)
    parts = []
    for batch in loader.epoch(0):
        (view,) = batch.views
        parts.append((judge(view, batch.labels), batch.indices))
        proceed((batch.number + 1) / len(loader))
    if not parts:  # more ranks than there are batches
        none = torch.empty(0, dtype=torch.int64, device=source.device)
        side = source.dataset.side
        return judge(torch.empty(0, 3, side, side, dtype=source.dtype, device=source.device), none), none
    rows, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    return rows, indices
