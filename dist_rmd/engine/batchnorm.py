"""Batch normalisation over all ranks on CPUs, where torch.nn.SyncBatchNorm refuses to run.

The local sums and the normalisation are torch's own CPU kernels; only the means between them are taken over ranks.
One collective forward, one backward.  Every rank must hold at least one row.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from dist_rmd.collectives import all_reduce_sum, global_moments, world_size


class SyncBatchNorm(_BatchNorm):
    """torch.nn.BatchNorm1d/2d/3d whose training statistics are those of all ranks' rows together.

    N x C or N x C x ... -> the same shape, dtype and memory format; half-precision inputs are computed in float32.
    Input gradients are those of the sum of all ranks' losses; weight and bias gradients are this rank's part of it,
    which DDP averages (as with torch.nn.SyncBatchNorm).  In evaluation mode and on one rank it is torch's BatchNorm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalisation needs N x C or N x C x ..., got {input.dim()} dimension(s)")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        x = input.float() if input.itemsize < 4 else input
        mean, var, count = _global_statistics(x.detach())
        if (
            self.track_running_stats
            and self.running_mean is not None
            and self.running_var is not None
            and self.num_batches_tracked is not None
        ):
            self.num_batches_tracked += 1
            momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * (count / (count - 1)), momentum)
        return _Normalise.apply(x, self.weight, self.bias, mean, var, count, self.eps).to(input.dtype)


def convert(net: nn.Module) -> nn.Module:
    """Turn every BatchNorm1d/2d/3d of `net`, or `net` itself, into SyncBatchNorm, in place; returns `net`.

    Parameters, buffers, hooks and state dict keys stay: only `forward` differs, so it is enough to change the class.
    """
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            module.__class__ = SyncBatchNorm  # type: ignore[assignment]
    return net


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean (C), biased variance (C) and number of values per channel, over all ranks."""
    mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    mean, var, count = global_moments(mean, var, x.numel() / len(mean))
    return mean, var, count.item()


class _Normalise(Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, where mean and var are functions of x on all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: float,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.count, ctx.eps = count, eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        # With fixed statistics the gradients of weight and bias are just the two sums that are needed:
        # of dy * (x - mean) / std and of dy.
        _, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
        )
        dx = None
        if ctx.needs_input_grad[0]:
            # dx = weight / std * (dy - mean of dy - (x - mean) / std * mean of dy (x - mean) / std)
            #    = scale * dy + slope * x + shift
            slope, shift = (all_reduce_sum(torch.stack([dweight, dbias])) / -ctx.count).unbind()
            inverse_std = (var + ctx.eps).rsqrt()
            scale = inverse_std if weight is None else inverse_std * weight
            slope = slope * inverse_std * scale
            shift = shift * scale - slope * mean
            scale, slope, shift = (v.view(-1, *[1] * (x.dim() - 2)) for v in (scale, slope, shift))
            dx = torch.addcmul(shift, x, slope).addcmul_(dy, scale)
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        return dx, dweight if needs_weight else None, dbias if needs_bias else None, None, None, None, None
