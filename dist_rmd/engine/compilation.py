"""torch.compile of a stage's networks, and readable errors when it fails."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import nn

from dist_rmd.errors import ConfigError


def compiled(net: nn.Module, frozen: Iterable[nn.Module], cuda_graphs: bool) -> nn.Module:
    """`net`, which DDP may have wrapped, to be compiled when it is first called; `frozen` are compiled in place.

    Parameters are shared with `net`, which itself stays as it is: evaluations call that, with batches of other sizes.
    cuda_graphs: launch forward and backward pass of `net` as one CUDA graph each.  Frozen networks are not: what a
    graph returns is overwritten when the next one begins.  Of an nn.ModuleDict, each network is compiled by itself.
    """
    for network in frozen:
        network.compile(dynamic=False)
    if isinstance(net, nn.ModuleDict):
        return nn.ModuleDict({name: compiled(part, (), cuda_graphs) for name, part in net.items()})
    return cast(nn.Module, torch.compile(net, dynamic=False, mode="reduce-overhead" if cuda_graphs else None))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raise ConfigError in place of what torch raises where it cannot compile."""
    try:
        yield
    except torch._dynamo.exc.BackendCompilerFailed as error:
        reason = str(error.inner_exception).strip().partition("\n")[0]
        raise ConfigError(f"speed.compile=true, but torch.compile fails here ({reason}): set it to false") from error
