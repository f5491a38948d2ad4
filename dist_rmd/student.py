"""What all ways to distil a student share: its recipe, its frozen teacher, and a look of that at every image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from dist_rmd.collectives import all_gather_rows, gather_sizes
from dist_rmd.config import Optimization
from dist_rmd.data.labels import LabelView
from dist_rmd.data.source import Source
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import Classifier


@dataclass(frozen=True)
class StudentConfig(Optimization):
    """The student, trained by the stages `modul`, `vkd` and `dfnd` alike (MODUL sec. V-B)."""

    weight_decay: NonNegativeFloat = 1e-4
    """weight decay of SGD, on all parameters"""
    schedule: Literal["cosine", "step", "constant"] = "step"
    """cosine: to zero over all steps; step: times `gamma` at each of `milestones`"""
    milestones: tuple[NonNegativeInt, ...] = (80, 160)
    """epochs after which schedule=step lowers the learning rate"""


def frozen_teacher(artefact: Mapping[str, Any]) -> Classifier:
    """The network of an artefact of stage `teacher`, in evaluation mode and without gradient."""
    model = artefact["model"]
    net = Classifier(encoder(model["name"], model["width"]), len(artefact["classes"]))
    net.encoder.load_state_dict(artefact["encoder"])
    net.head.load_state_dict(artefact["head"])
    return net.requires_grad_(False).eval()


@torch.no_grad()
def survey(
    source: Source,
    labels: LabelView,
    judge: Callable[[Tensor, Tensor], Tensor],
    columns: int,
    proceed: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """What `judge` makes of every training image of `labels`, each once over all ranks, in the plain view of it.

    judge: (images b x 3 x S x S, given labels b) -> b x columns numbers.  proceed: told what share of the images is
    done, between batches.  Returns N x columns float64 in the order of `labels` on every rank: the same bits on any
    number of ranks, where all machines are of one kind.
    """
    loader = source.evaluation("train", labels, aligned=True)
    parts = [torch.empty(0, columns + 1, dtype=torch.float64, device=source.device)]
    for batch in loader.epoch(0):
        (view,) = batch.views
        judged = judge(view, batch.labels).double()
        parts.append(torch.cat([batch.indices[:, None].double(), judged], dim=1))  # exact up to 2^53 images
        proceed((batch.number + 1) / len(loader))
    own = torch.cat(parts)
    rows = all_gather_rows(own, gather_sizes(len(own), own.device))
    by_index = rows[rows[:, 0].argsort(), 1:]
    place = torch.from_numpy(labels.indices.argsort().argsort()).to(source.device)
    return by_index[place]
