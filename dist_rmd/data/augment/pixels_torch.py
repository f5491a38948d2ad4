"""The pixels of views in plain torch, for any device: one operation on the whole batch after another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dist_rmd.data.augment import colour, geometry


def strong(
    images: Tensor,
    box: tuple[Tensor, Tensor, Tensor, Tensor],
    flip: Tensor,
    factors: Sequence[Tensor],
    gray: Tensor,
    order: Sequence[int],
    statistics: Tensor,
) -> Tensor:
    """See views.Pixels."""
    side = images.shape[1]
    top, left, height, width = box
    rows = geometry.bilinear(top, height, torch.zeros_like(flip), side)
    columns = geometry.bilinear(left, width, flip, side)
    pixels = geometry.resample(images, rows, columns, unit=2 * side)
    for number in order:
        pixels = colour.JITTER[number](pixels, factors[number])
    return _normalise(torch.where(gray[:, None, None, None], colour.gray(pixels), pixels), statistics)


def weak(images: Tensor, down: Tensor, right: Tensor, flip: Tensor, statistics: Tensor) -> Tensor:
    """See views.Pixels."""
    side = images.shape[1]
    rows, columns = geometry.shift(down, torch.zeros_like(flip), side), geometry.shift(right, flip, side)
    return _normalise(geometry.resample(images, rows, columns, unit=1), statistics)


def _normalise(pixels: Tensor, statistics: Tensor) -> Tensor:
    mean, std = statistics.unbind(0)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
