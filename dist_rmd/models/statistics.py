"""The statistics of a batch in batch normalisation: used and then forgotten, or read."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def statistics_kept(net: nn.Module) -> Iterator[None]:
    """Within it, a training forward of `net` leaves all running statistics as they are.

    For images that are unlike those of the evaluation, such as mixed or turned ones.
    """
    tracking = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False  # the layer then normalises by the batch, and writes nothing down
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


@contextlib.contextmanager
def batch_moments(net: nn.Module) -> Iterator[list[tuple[_BatchNorm, Tensor, Tensor]]]:
    """Within it, a forward of `net` fills the list: (layer, mean, biased variance) of what enters each normalisation.

    C numbers each, over images and places, with gradient, float32 or wider, in the order of the forward.  `net` itself,
    its outputs and its running statistics stay as they are.
    """
    found: list[tuple[_BatchNorm, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        x = inputs[0].float() if inputs[0].itemsize < 4 else inputs[0]
        var, mean = torch.var_mean(x, dim=[0, *range(2, x.dim())], correction=0)
        found.append((layer, mean, var))

    hooks = [m.register_forward_pre_hook(note) for m in net.modules() if isinstance(m, _BatchNorm)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
