"""Collective operations for losses and metrics.  On one process each is the identity, so callers need no branch.

distributed/processes.py chooses rank and device; this module only uses them.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

GATHERED = 2**16
"""bytes of all ranks together up to which CPUs add up what they have gathered: gloo's all_gather is half as many
messages one after another as its all_reduce"""


# torch 2.13 has renamed it.
_all_gather_into: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def world_size() -> int:
    """Number of ranks of the default process group (1 without one)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Rank in the default process group (0 without one)."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of `tensor` over all ranks, as a new tensor without gradient."""
    if tensor.device.type == "cpu" and tensor.nbytes * world_size() <= GATHERED:
        return all_gather_rows(tensor[None], [1] * world_size()).sum(0, dtype=tensor.dtype)
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def gather_sizes(size: int, device: torch.device) -> list[int]:
    """The `size` of every rank, in rank order.  This is a device synchronisation point."""
    if world_size() == 1:
        return [size]
    own = torch.tensor([size], device=device)
    sizes = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(sizes, own)
    return torch.cat(sizes).tolist()


def all_gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Concatenate every rank's rows (b_r x ...) in rank order -> (sum b_r) x ..., without gradient.

    `sizes` are the b_r of all ranks (`gather_sizes`); they may differ.
    """
    rows = rows.detach().contiguous()
    if world_size() == 1:
        return rows
    # Every rank sends the same shape: gloo and NCCL refuse uneven all_gathers.
    most = max(sizes)
    if len(rows) < most:
        rows = torch.cat([rows, rows.new_zeros((most - len(rows), *rows.shape[1:]))])
    gathered = rows.new_empty((len(sizes) * most, *rows.shape[1:]))
    _all_gather_into(gathered, rows)
    if min(sizes) == most:
        return gathered
    return torch.cat([part[:size] for part, size in zip(gathered.split(most), sizes, strict=True)])


def write_rows(memory: Tensor, rows: Tensor, values: Tensor, sizes: Sequence[int]) -> None:
    """Write memory[row] = value on every rank, for the rows and values of all ranks, so that all memories stay equal.

    memory: N x ..., the same on all ranks.  rows: this rank's b_r int64, in 0..N-1; no row is written twice, by any
    rank.  values: b_r x ..., without gradient.  sizes: the b_r of all ranks.  Two gatherings, of what is written alone.
    """
    memory[all_gather_rows(rows, sizes)] = all_gather_rows(values.to(memory.dtype), sizes)


def first_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Rank 0's values of `tensors`, which have one dtype, in one broadcast."""
    if world_size() == 1 or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    dist.broadcast(flat, src=0)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def gather_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """`all_gather_rows` with gradient: the gradient of a rank's rows is the sum over the losses of all ranks.

    DDP averages gradients over ranks, so each rank's loss must be its part of the global mean.
    The backward pass is a collective: every rank must run it.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows, sizes)


def mean_rows(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """The mean of the rows of all ranks, rows b_r x C -> C, with gradient as in `gather_rows`; the same on all ranks.

    sizes: the b_r of all ranks.
    """
    return gather_rows(rows.sum(dim=0, keepdim=True), [1] * len(sizes)).sum(dim=0) / sum(sizes)


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes = sizes
        return all_gather_rows(rows, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Gradients of matrix products are often transposed in memory, which gloo and NCCL would refuse or mix up.
        return all_reduce_sum(gradient.contiguous()).split(list(ctx.sizes))[rank()], None


def global_moments(mean: Tensor, var: Tensor, count: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C), biased variance (C) and number of values (0-d) of all ranks, from those of this rank; no gradient.

    Each variance is around its rank's own mean, and is shifted to the common one (Chan, Golub & LeVeque 1979): large
    means cancel nothing.
    """
    if world_size() == 1:
        return mean.detach(), var.detach(), mean.new_full((), count)
    own = torch.cat([mean, var, mean.new_full((1,), count)])
    ranks = all_gather_rows(own[None], [1] * world_size())  # W x (2C + 1)
    means, variances, counts = ranks.split([len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    share = counts / total
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0), total
