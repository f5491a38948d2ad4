"""DIST's relations (Huang et al. 2022, https://arxiv.org/abs/2205.10536), between features of the global batch.

In the paper the columns of both matrices are probabilities of classes.  A teacher that has learnt without labels has no
classes: here the columns are features, as in RMDNet's relations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_rmd.distributed.collectives import gather_rows, world_size


class Distances(NamedTuple):
    """Values (0-d) whose means over ranks are those of the global batch, and so are the gradients that DDP averages."""

    inter: Tensor
    """1 - Pearson correlation of a row of the student with that of the teacher: how an image's features relate"""
    intra: Tensor
    """1 - Pearson correlation of a column of both: how the images relate in a feature"""


def dist_loss(teacher: Tensor, student: Tensor, sizes: Sequence[int]) -> Distances:
    """Both distances, each within 0..2; rows and columns without variance have correlation 0.

    teacher, student: this rank's rows, b x D (any float type), of the same images; the student gets a gradient.
    sizes: the b of all ranks, in rank order.
    The computation is in float32 (float64 if an input is), also under autocast.  The backward pass is a collective.
    Raises ValueError where the shapes differ.
    """
    if teacher.dim() != 2 or teacher.shape != student.shape:
        shapes = " and ".join(str(tuple(rows.shape)) for rows in (teacher, student))
        raise ValueError(f"teacher and student features must be rows x width of one size, got {shapes}")
    dtype = torch.promote_types(torch.promote_types(teacher.dtype, student.dtype), torch.float32)
    t, s = teacher.detach().to(dtype), student.to(dtype)
    with torch.autocast(s.device.type, enabled=False):
        both = gather_rows(torch.stack([t, s], dim=1), sizes)  # B x 2 x D
        all_t, all_s = both.unbind(dim=1)
        share = len(s) * world_size() / sum(sizes)  # see Batch.share
        return Distances((1 - _pearson(t, s).mean()) * share, 1 - _pearson(all_t.T, all_s.T).mean())


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each row of `a` with that of `b`."""
    a, b = (rows - rows.mean(dim=1, keepdim=True) for rows in (a, b))
    return F.cosine_similarity(a, b, dim=1)
