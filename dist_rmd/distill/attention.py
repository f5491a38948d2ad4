"""Attention transfer (Zagoruyko & Komodakis 2017, https://arxiv.org/abs/1612.03928, eq. 2) from teacher to student."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The sum over stages of the mean square difference of two networks' attention -> N values >= 0, one per image.

    student, teacher: a map for every stage, N x channels x height x width, of the same images.  The numbers of channels
    may differ.

    The attention of a map is the mean over channels of the squared map, scaled to a vector of length 1.  No gradient
    reaches the teacher.  The computation is in float32, or float64 if a map is.  Raises ValueError where the heights or
    widths differ.
    """
    if [m.shape[2:] for m in student] != [m.shape[2:] for m in teacher]:
        sides = " and ".join(str([tuple(m.shape[2:]) for m in maps]) for maps in (student, teacher))
        raise ValueError(f"attention is compared place by place, but the maps of student and teacher are {sides}")
    pairs = zip(student, teacher, strict=True)
    return torch.stack([(_attention(s) - _attention(t.detach())).square().mean(dim=1) for s, t in pairs]).sum(dim=0)


def _attention(maps: Tensor) -> Tensor:
    """The attention of maps, N x channels x height x width -> N x (height * width), rows of length 1."""
    wide = maps.float() if maps.itemsize < 4 else maps
    return F.normalize(wide.square().mean(dim=1).flatten(1))
