"""Batch normalisation over all ranks, for CPUs and for compiled networks.

torch.nn.SyncBatchNorm refuses CPUs, and consists of ready-made kernels that a compiler can fuse with nothing.  Here the
compiler sees sums and products, and the two collectives: one forward, one backward.  Every rank must hold at least one
row.
"""

from collections.abc import Sequence
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
        return _normalised([self], [input])[0]

    @classmethod
    def together(cls, layers: Sequence[BatchNorm], inputs: Sequence[Tensor]) -> list[Tensor]:
        if world_size() == 1 or not all(layer.training for layer in layers):
            return super().together(layers, inputs)
        return _normalised([layer for layer in layers if isinstance(layer, SyncBatchNorm)], inputs)

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

    @classmethod
    def together(cls, layers: Sequence[BatchNorm], inputs: Sequence[Tensor]) -> list[Tensor]:
        return [layer(x) for layer, x in zip(layers, inputs, strict=True)]


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


def _normalised(layers: Sequence[SyncBatchNorm], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of layers in training mode, each for its input; the inputs are of one shape."""
    for layer, x in zip(layers, inputs, strict=True):
        layer._check_input_dim(x)
    wide = [x.float() if x.itemsize < 4 else x for x in inputs]
    mean, var, count = _global_statistics([x.detach() for x in wide], layers[0].views)
    for layer, layer_mean, layer_var in zip(layers, mean, var, strict=True):
        if layer.track_running_stats:
            layer._follow(layer_mean, layer_var * (count / (count - 1)))
    scales = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    found = _Normalise.apply(mean, var, count, [layer.eps for layer in layers], *wide, *scales)
    return [y.to(x.dtype) for x, y in zip(inputs, found, strict=True)]


def _global_statistics(inputs: Sequence[Tensor], views: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (K x V x C), biased variance (K x V x C) and number of values per view and channel (0-d), over all ranks.

    inputs: K inputs of one shape.
    """
    found = [_statistics(view) for x in inputs for view in x.chunk(views)]
    mean, var = (torch.cat(column) for column in zip(*found, strict=True))
    mean, var, count = global_moments(mean, var, inputs[0].numel() / (views * inputs[0].shape[1]))
    return mean.view(len(inputs), views, -1), var.view(len(inputs), views, -1), count


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

    For K inputs of one shape: x is K tensors of V views, the equal parts of each; mean, var: K x V x C.  Then come K
    pairs of weight and bias, C each or None.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, var: Tensor, count: Tensor, eps: Sequence[float], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        inputs, weights, biases = tensors[: len(mean)], tensors[len(mean) :: 2], tensors[len(mean) + 1 :: 2]
        outputs, scales, inverses = [], [], []
        for x, weight, bias, own_mean, own_var, own_eps in zip(
            inputs, weights, biases, mean.unbind(), var.unbind(), eps, strict=True
        ):
            assert x is not None
            inverse_std = (own_var + own_eps).rsqrt()
            scale = inverse_std if weight is None else inverse_std * weight
            shift = -own_mean * scale if bias is None else torch.addcmul(bias, own_mean, scale, value=-1)
            outputs.append(_affine(x, scale, shift))
            scales.append(scale)
            inverses.append(inverse_std)
        ctx.save_for_backward(mean, torch.stack(inverses), torch.stack(scales), count, *inputs)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        mean, inverse_std, scale, count, *inputs = ctx.saved_tensors
        # Sums of dy * (x - mean) / std and of dy: the gradients of weight and bias, and what that of x needs.  They do
        # not depend on the weight, but without one torch's kernel for channels_last on GPUs fails.
        views = len(mean[0])
        sums = [
            torch.ops.aten.native_batch_norm_backward(
                dy, x, factor, None, None, view_mean, view_inverse, True, 0.0, [False, True, True]
            )[1:]
            for dy, x, factor, view_mean, view_inverse in zip(
                [view for dy in gradients for view in dy.chunk(views)],
                [view for x in inputs for view in x.chunk(views)],
                *(values.flatten(0, 1).unbind() for values in (scale, mean, inverse_std)),
                strict=True,
            )
        ]
        dweight, dbias = (torch.stack(column).view_as(mean) for column in zip(*sums, strict=True))
        needed = ctx.needs_input_grad[4 : 4 + len(mean)]
        of_inputs: list[Tensor | None] = [None] * len(mean)
        if any(needed):
            # dx = weight / std * (dy - mean of dy - (x - mean) / std * mean of dy (x - mean) / std)
            #    = scale * dy + slope * x + shift
            slope, shift = (all_reduce_sum(torch.stack([dweight, dbias])) * (scale / -count)).unbind()
            slope = slope * inverse_std
            shift = torch.addcmul(shift, slope, mean, value=-1)
            for number, (x, dy) in enumerate(zip(inputs, gradients, strict=True)):
                if needed[number]:
                    dx = of_inputs[number] = _affine(x, slope[number], shift[number])
                    _by_view(dx, views).addcmul_(_by_view(dy, views), _by_channel(scale[number], x))
        pairs = zip(dweight.sum(1).unbind(), dbias.sum(1).unbind(), strict=True)
        of_scales = [value for pair in pairs for value in pair]
        kept = zip(of_scales, ctx.needs_input_grad[4 + len(mean) :], strict=True)
        return None, None, None, None, *of_inputs, *(value if needs else None for value, needs in kept)


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
