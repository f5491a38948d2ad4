"""Batch normalisation over all ranks, for CPUs and for compiled networks.

torch.nn.SyncBatchNorm refuses CPUs, and consists of ready-made kernels that a compiler can fuse with nothing.  Here the
compiler sees sums and products, and the two collectives: one forward, one backward.  Every rank must hold at least one
row.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from dist_rmd.distributed.collectives import all_reduce_sum, global_moments, world_size
from dist_rmd.errors import ConfigError
from dist_rmd.models.batchnorm import BatchNorm, kind


class SyncBatchNorm(BatchNorm):
    """torch.nn.BatchNorm1d/2d/3d whose training statistics are those of all ranks' rows together.

    N x C or N x C x ... -> the same shape, dtype and memory format; half-precision inputs are computed in float32.
    Input gradients are those of the sum of all ranks' losses; weight and bias gradients are this rank's part of it,
    which DDP averages (as with torch.nn.SyncBatchNorm).  In evaluation mode and on one rank it is torch's BatchNorm.
    It is computed as x * scale + shift, as torch does on CPUs: its layer for GPUs subtracts the mean first, which is
    more exact where means are much larger than deviations.  The statistics of all views are exchanged at once.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalisation needs N x C or N x C x ..., got {input.dim()} dimension(s)")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        x = input.float() if input.itemsize < 4 else input
        mean, var, count = _global_statistics(x.detach(), self.views)
        if self.track_running_stats:
            self._follow(mean, var * (count / (count - 1)))
        return _Normalise.apply(x, self.weight, self.bias, mean, var, count, self.eps).to(input.dtype)

    def _follow(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards those of each view in turn: mean and unbiased variance, V x C."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        on_host = self.momentum is not None and not torch.compiler.is_compiling()
        if on_host:
            self.count()
        for view_mean, view_var in zip(mean.unbind(), var.unbind(), strict=True):
            if not on_host:
                self.num_batches_tracked += 1
            momentum = 1 / self.num_batches_tracked.to(mean.dtype) if self.momentum is None else self.momentum
            self.running_mean.lerp_(view_mean, momentum)
            self.running_var.lerp_(view_var, momentum)


class SyncBatchNormAct(SyncBatchNorm):
    """The same for timm's BatchNormAct2d, which ends with a dropout and an activation of its own."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def convert(net: nn.Module) -> nn.Module:
    """Turn every BatchNorm1d/2d/3d of `net`, or `net` itself, into SyncBatchNorm, in place; returns `net`.

    Parameters, buffers, hooks and state dict keys stay: only `forward` differs, so it is enough to change the class.
    Raises ConfigError for a kind of batch normalisation whose `forward` is not known.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
            module.__class__ = _synced(module)
    return net


def is_plain(net: nn.Module) -> bool:
    """Whether all batch normalisation in `net` is torch's, of one view, so that torch can convert it, too."""
    layers = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    return all(_is_torchs(layer) and getattr(layer, "views", 1) == 1 for layer in layers)


def _synced(module: _BatchNorm) -> type[SyncBatchNorm]:
    if _is_torchs(module):
        return SyncBatchNorm
    if kind(module).__name__ == "BatchNormAct2d":
        return SyncBatchNormAct
    raise ConfigError(
        f"{type(module).__name__} of this network normalises in its own way, which is not known for several ranks: set "
        "dist.sync_batchnorm=false"
    )


def _is_torchs(module: _BatchNorm) -> bool:
    return kind(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _global_statistics(x: Tensor, views: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (V x C), biased variance (V x C) and number of values per view and channel (0-d), over all ranks."""
    found = [_statistics(view) for view in x.chunk(views)]
    mean, var = (torch.cat(column) for column in zip(*found, strict=True))
    mean, var, count = global_moments(mean, var, x.numel() / len(mean))
    return mean.view(views, -1), var.view(views, -1), count


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C each) on this rank."""
    if torch.compiler.is_compiling():
        var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        return mean, var
    # Ten times as fast as var_mean on a CPU; a compiler cannot look into it.
    mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
    return mean, var


class _Normalise(Function):
    """y = (x - mean) / std * weight + bias, where mean and std = sqrt(var + eps) are functions of x on all ranks.

    mean, var: V x C, of V views, the equal parts of x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        inverse_std = (var + eps).rsqrt()
        scale = inverse_std if weight is None else inverse_std * weight
        shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
        ctx.save_for_backward(x, mean, inverse_std, scale, count)
        return _affine(x, scale, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse_std, scale, count = ctx.saved_tensors
        # Sums of dy * (x - mean) / std and of dy: the gradients of weight and bias, and what that of x needs.  They do
        # not depend on the weight, but without one torch's kernel for channels_last on GPUs fails.
        views = zip(dy.chunk(len(mean)), x.chunk(len(mean)), scale, mean, inverse_std, strict=True)
        sums = [
            torch.ops.aten.native_batch_norm_backward(
                view_dy, view, factor, None, None, view_mean, view_inverse, True, 0.0, [False, True, True]
            )[1:]
            for view_dy, view, factor, view_mean, view_inverse in views
        ]
        dweight, dbias = (torch.stack(column) for column in zip(*sums, strict=True))  # V x C
        dx = None
        if ctx.needs_input_grad[0]:
            # dx = weight / std * (dy - mean of dy - (x - mean) / std * mean of dy (x - mean) / std)
            #    = scale * dy + slope * x + shift
            slope, shift = (all_reduce_sum(torch.stack([dweight, dbias])) * (scale / -count)).unbind()
            slope = slope * inverse_std
            shift = torch.addcmul(shift, slope, mean, value=-1)
            dx = _affine(x, slope, shift)
            _by_view(dx, len(mean)).addcmul_(_by_view(dy, len(mean)), _by_channel(scale, x))
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        return (
            dx, dweight.sum(0) if needs_weight else None, dbias.sum(0) if needs_bias else None, None, None, None, None
        )  # fmt: skip


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * scale + shift, both by view and channel (V x C), in one pass."""
    terms = _by_channel(shift, x), _by_view(x, len(scale)), _by_channel(scale, x)
    if torch.compiler.is_compiling():  # a compiler refuses `out`
        return torch.addcmul(*terms).flatten(0, 1)
    result = torch.empty_like(x)  # in the format of x, and no view, since a ReLU may overwrite what a Function returns
    torch.addcmul(*terms, out=_by_view(result, len(scale)))
    return result


def _by_view(x: Tensor, views: int) -> Tensor:
    """N x C x ... -> V x N/V x C x ..."""
    return x.unflatten(0, (views, -1))


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    """V x C -> V x 1 x C x 1 x ..., which broadcasts over `x` by view."""
    return values.view(len(values), 1, -1, *[1] * (x.dim() - 2))
