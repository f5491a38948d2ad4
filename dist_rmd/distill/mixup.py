"""Mixup over the global batch (Zhang et al. 2018, https://arxiv.org/abs/1710.09412; MODUL eq. 14).

Weight and partners are hashes of (seed, epoch, number of the batch).  They are the same on all ranks without a message,
the same after any restart, and leave the generators of torch and numpy alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dist_rmd.data.augment import keyed_rng
from dist_rmd.distributed.collectives import all_gather_rows


class Mix(NamedTuple):
    """How one global batch of B images is mixed."""

    weight: float
    """of the image itself, in (0, 1) up to rounding; its partner's is 1 - weight"""
    partner: Tensor
    """B int64, on the CPU: positions in the global batch"""


def draw(seed: int, epoch: int, number: int, size: int, delta: float) -> Mix:
    """The mix of batch `number` of an epoch: its weight from Beta(delta, delta), its partners all images in a circle.

    size: B, the images of all ranks.  No image is its own partner, but in a batch of one.
    delta: > 0.  8 in the authors' code, where nine weights in ten are within 0.3..0.7; 1 gives all weights alike.
    Raises ValueError for a delta out of range.
    """
    # Only where it is used: importing scipy takes half a second.
    from scipy.special import betaincinv

    if not 0 < delta < float("inf"):
        raise ValueError(f"mixup delta must be positive and finite, got {delta}")
    # 52 bits and a half: in (0, 1), and exact in float64
    uniform = ((keyed_rng.key(seed, epoch, number, "mixup weight") >> 12) + 0.5) * 2**-52
    # Raw words, as in keyed_rng.epoch_order.  Any order makes a circle, and all circles are equally probable.
    words = np.random.Philox(key=keyed_rng.key(seed, epoch, number, "mixup partner")).random_raw(size)
    circle = torch.from_numpy(np.argsort(words, kind="stable"))
    partner = torch.empty_like(circle)
    partner[circle] = circle.roll(-1)
    return Mix(float(betaincinv(delta, delta, uniform)), partner)


def partners(rows: Tensor, mix: Mix, sizes: Sequence[int], rank: int) -> Tensor:
    """The rows of the partners of this rank's images, in the memory format of `rows`, without gradient.

    rows: b x ... (images, labels, anything).  sizes: the b of all ranks, in rank order; together those of the mix.
    """
    own = mix.partner.split(list(sizes))[rank]
    if rows.is_cuda:
        own = own.pin_memory()  # a copy from unpinned memory would be a CPU-GPU sync
    own = own.to(rows.device, non_blocking=True)
    return torch.empty_like(rows).copy_(all_gather_rows(rows, sizes)[own])


def mixed(rows: Tensor, others: Tensor, weight: float) -> Tensor:
    """Eq. 14: weight * rows + (1 - weight) * others, of images; of losses with either's labels, eq. 15."""
    return weight * rows + (1 - weight) * others
