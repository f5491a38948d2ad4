"""The batch statistics of batch normalisation: normalises by them, keeps them out of the running ones, reads them."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def statistics_kept(net: nn.Module) -> Iterator[None]:
    """Within this context, a forward pass of `net` in training mode leaves all running statistics as they are.

    Images unlike those of the evaluation, such as mixed or rotated images, should not enter the running statistics.
    """
    tracking = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False  # the layer then normalises by the batch and updates nothing
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


@contextlib.contextmanager
def batch_statistics(net: nn.Module) -> Iterator[None]:
    """Within this context, `net`, which is in evaluation mode, normalises by the batch, as in training.

    All running statistics stay as they are.
    """
    layers = [m for m in net.modules() if isinstance(m, _BatchNorm)]
    with statistics_kept(net):
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()


@contextlib.contextmanager
def batch_moments(net: nn.Module) -> Iterator[list[tuple[_BatchNorm, Tensor, Tensor]]]:
    """Within this context, a forward pass of `net` appends (layer, mean, biased variance) of each layer's input.

    The layers are those of batch normalisation, in the order of the forward pass.  Mean and variance are over images
    and places, C numbers each, float32 or wider, with gradient.  Reading them changes neither `net` nor its outputs nor
    its running statistics.
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
