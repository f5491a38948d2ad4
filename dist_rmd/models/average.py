"""A network that averages another network's weights over time (Tarvainen & Valpola 2017, arXiv:1703.01780, sec. 2)."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dist_rmd.distributed.collectives import first_ranks
from dist_rmd.models.batchnorm import BatchNorm


def average_of(net: nn.Module) -> nn.Module:
    """A copy of `net` with its present weights, in evaluation mode and without gradient, for `move_average`."""
    return copy.deepcopy(net).requires_grad_(False).eval()


@torch.no_grad()
def move_average(average: nn.Module, net: nn.Module, momentum: float) -> None:
    """Update the moving average: average <- momentum * average + (1 - momentum) * net.

    The formula applies to parameters and running statistics; integer counters are copied.
    average, net: networks with the same layers.  momentum: 0..1, the share of the old average that stays.
    Every rank must call this function: where ranks have batch statistics of their own (dist.sync_batchnorm=false), the
    first rank's statistics count, as in DDP.
    """
    statistics = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
    moving = [*average.parameters(), *(buffer for buffer in average.buffers() if buffer.is_floating_point())]
    get_ema_multi_avg_fn(momentum)(moving, [*net.parameters(), *first_ranks(statistics)], 0)
    counters = [buffer for buffer in average.buffers() if not buffer.is_floating_point()]
    torch._foreach_copy_(counters, [buffer for buffer in net.buffers() if not buffer.is_floating_point()])
    for mine, theirs in zip(average.modules(), net.modules(), strict=True):
        if isinstance(mine, BatchNorm) and isinstance(theirs, BatchNorm):
            mine.uncounted = theirs.uncounted
