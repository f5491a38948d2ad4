"""Batch normalisation by the batch's own statistics, which are then forgotten."""

import contextlib
from collections.abc import Iterator

from torch import nn
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
