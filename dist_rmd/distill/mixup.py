"""Mixup over the global batch (Zhang et al. 2018, https://arxiv.org/abs/1710.09412; MODUL eq. 14).

Weight and partners are hashes of (seed, epoch, number of the batch): they are the same on all ranks without
communication, the same after any restart, and leave the random generators of torch and numpy untouched.
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
    """weight of the image itself, in (0, 1) up to rounding; the partner's weight is 1 - weight"""
    partner: Tensor
    """place of each image's partner in the global batch: B int64, on the CPU"""


def draw(seed: int, epoch: int, number: int, size: int, delta: float) -> Mix:
    """Draw the mix of batch `number` of an epoch: the weight from Beta(delta, delta), the partners along a circle.

    The circle visits all images in random order, so that each is the partner of one other; only a batch of a single
    image is its own partner.
    size: B, the images of all ranks.
    delta: > 0.  8 in the authors' code, where nine weights in ten are within 0.3..0.7; with 1 weights are uniform.
    Raises ValueError for a delta out of range.
    """
    # Imported only where it is used: importing scipy takes half a second.
    from scipy.special import betaincinv

    if not 0 < delta < float("inf"):
        raise ValueError(f"mixup delta must be positive and finite, got {delta}")
    # 52 random bits plus a half: inside (0, 1), and exact in float64
    uniform = ((keyed_rng.key(seed, epoch, number, "mixup weight") >> 12) + 0.5) * 2**-52
    # Raw words for the reason given in keyed_rng.epoch_order.  Their order is a circle of all images, drawn uniformly.
    words = np.random.Philox(key=keyed_rng.key(seed, epoch, number, "mixup partner")).random_raw(size)
    circle = torch.from_numpy(np.argsort(words, kind="stable"))
    partner = torch.empty_like(circle)
    partner[circle] = circle.roll(-1)
    return Mix(float(betaincinv(delta, delta, uniform)), partner)


def partners(rows: Tensor, mix: Mix, sizes: Sequence[int], rank: int) -> Tensor:
    """Fetch the rows of the partners of this rank's images, in the memory format of `rows`, without gradient.

    rows: b x ... (images, labels, ...).  sizes: the b of all ranks, in rank order, which sum to the B of the mix.
    """
    own = mix.partner.split(list(sizes))[rank]
    if rows.is_cuda:
        own = own.pin_memory()  # a copy from unpinned memory would be a CPU-GPU sync
    own = own.to(rows.device, non_blocking=True)
    return torch.empty_like(rows).copy_(all_gather_rows(rows, sizes)[own])


def partners_across(
    parts: Sequence[Tensor], sizes: Sequence[Sequence[int]], mix: Mix, rank: int
) -> tuple[Tensor, Tensor]:
    """Like `partners`, for several batches that are mixed together: (this rank's rows, their partners' rows).

    parts: this rank's part of every batch, b_k x ... each; the rows are those of parts[0], parts[1], ... one after
    another.  sizes: the b_k of all ranks, of every batch.  In the mix, batch k follows batch k - 1, so that it is the
    same mix on any number of ranks.
    """
    pool = torch.cat([all_gather_rows(part, whole) for part, whole in zip(parts, sizes, strict=True)])
    places = mix.partner.split([sum(whole) for whole in sizes])
    own = torch.cat([place.split(list(whole))[rank] for place, whole in zip(places, sizes, strict=True)])
    if pool.is_cuda:
        own = own.pin_memory()  # as above
    own = own.to(pool.device, non_blocking=True)
    rows = torch.cat(list(parts))
    return rows, torch.empty_like(rows).copy_(pool[own])


def mixed(rows: Tensor, others: Tensor, weight: float) -> Tensor:
    """Mix two tensors: weight * rows + (1 - weight) * others; images by eq. 14, losses under both labels by eq. 15."""
    return weight * rows + (1 - weight) * others
