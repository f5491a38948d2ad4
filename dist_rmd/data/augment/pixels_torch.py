"""The pixels of views in plain torch, for any device: one operation on the whole batch after another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dist_rmd.data.augment import colour, geometry
from dist_rmd.data.augment.augmix import UNIT, Steps, mixed


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


def augmix(
    images: Tensor, shown: tuple[Tensor, Tensor, Tensor], weights: Tensor, steps: Steps, statistics: Tensor
) -> Tensor:
    """See views.Pixels."""
    down, right, flip = shown
    side = images.shape[1]
    rows, columns = geometry.shift(down, torch.zeros_like(flip), side), geometry.shift(right, flip, side)
    shifted = (255 * geometry.resample(images, rows, columns, unit=1)).round().to(torch.int32)
    share = weights.sum(0).to(torch.float32) / UNIT
    return _normalise(mixed(shifted, weights, steps), statistics, share[:, None, None, None])


def _normalise(pixels: Tensor, statistics: Tensor, share: Tensor | float = 1.0) -> Tensor:
    """Normalise pixels, whose weights sum to `share`."""
    mean, std = statistics.unbind(0)
    return ((pixels - share * mean) / std).contiguous(memory_format=torch.channels_last)
