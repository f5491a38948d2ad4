"""Batch normalisation for training: each view of a batch by its own statistics, and batches counted on the host."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorm(_BatchNorm):
    """In front of a kind of torch's batch normalisation: views apart, and no counter to add to on the device.

    views: number of equal parts of a training batch, one after another, each of which is normalised by its own
    statistics.  Outputs and running statistics are those of one forward pass for each part, in this order.
    uncounted: number of training batches that the buffer num_batches_tracked does not count; a state dict has the sum.
    The buffer's value has no effect on the layer, unless momentum is None: then, and where a compiler makes the
    addition a part of another kernel, the layer itself counts.
    """

    views = 1
    uncounted = 0

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if self.momentum is None or torch.compiler.is_compiling():
            return self._by_view(input)
        counter, self.num_batches_tracked = self.num_batches_tracked, None
        try:
            return self._by_view(input)
        finally:
            self.num_batches_tracked = counter
            self.count()

    def count(self) -> None:
        """Count a forward pass whose statistics entered the running statistics."""
        self.uncounted += self.views * self.track_running_stats

    @classmethod
    def together(cls, layers: Sequence["BatchNorm"], inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of all `layers`, each for its input; the inputs differ in nothing but their numbers.

        Layers that exchange statistics between ranks do so at once.
        """
        return [layer(x) for layer, x in zip(layers, inputs, strict=True)]

    def _by_view(self, input: Tensor) -> Tensor:
        if self.views == 1:
            return super().forward(input)
        normalise = super().forward
        return torch.cat([normalise(view) for view in input.chunk(self.views)])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        key = f"{prefix}num_batches_tracked"
        if self.uncounted and key in destination:
            destination[key] = destination[key] + self.uncounted

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.uncounted = 0


def normalised(layers: Sequence[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of layers of batch normalisation, each for its input, by `BatchNorm.together` where they have it."""
    ours = [layer for layer in layers if isinstance(layer, BatchNorm)]
    if len(ours) == len(layers) and len({type(layer) for layer in ours}) == 1:
        return ours[0].together(ours, inputs)
    return [layer(x) for layer, x in zip(layers, inputs, strict=True)]


def kind(layer: _BatchNorm) -> type[_BatchNorm]:
    """The class of a layer of batch normalisation, without BatchNorm in front of it."""
    found = type(layer)
    return found.__bases__[1] if BatchNorm in found.__bases__ and len(found.__bases__) == 2 else found


def for_training(net: nn.Module, views: int = 1) -> nn.Module:
    """Put BatchNorm in front of every batch normalisation of `net`, in place; returns `net`.

    Parameters, buffers, hooks and state dict keys stay, and so does the result of `net` for `views` = 1.  A layer that
    already has views keeps them.  torch's SyncBatchNorm stays as it is: it counts by itself.
    """
    for layer in net.modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm):
            if not isinstance(layer, BatchNorm):
                layer.__class__ = _in_front_of(type(layer))  # type: ignore[arg-type]
            assert isinstance(layer, BatchNorm)
            layer.views = max(layer.views, views)
    return net


@cache
def _in_front_of(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    return type(kind.__name__, (BatchNorm, kind), {})
