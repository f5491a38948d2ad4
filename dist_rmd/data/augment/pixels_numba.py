"""The pixels of views on CPUs, compiled by numba: each sample goes through all operations while it is in the cache.

A crop reads two pixels an axis (the taps) in place of the matrices of geometry.py.  The colours follow colour.py
operation by operation and rounding by rounding, so the bits are those of pixels_torch.py.  The first call compiles
(some 10 s); later processes read the compiled code from disk.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numba import njit
from numpy import float32, uint32
from torch import Tensor

from dist_rmd.data.augment import augmix_numba
from dist_rmd.data.augment.augmix import Steps
from dist_rmd.data.augment.kernels import in_threads, kept

ZERO, ONE, TWO, THREE, FOUR, SIX = map(float32, (0, 1, 2, 3, 4, 6))  # a Python float would make everything float64
LUMA = (float32(0.2989), float32(0.587), float32(0.114))
LEVELS = float32(2**24)


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
    result = torch.empty(images.shape, dtype=torch.float32)
    rows = (images.contiguous(), *box, flip, torch.stack([*factors], 1), gray, result)
    _run(_strong, rows, np.array(order, np.int64), statistics.view(2, 3).numpy())
    return result.permute(0, 3, 1, 2)


def weak(images: Tensor, down: Tensor, right: Tensor, flip: Tensor, statistics: Tensor) -> Tensor:
    """See views.Pixels."""
    mean, std = statistics.view(2, 3)
    result = torch.empty(images.shape, dtype=torch.float32)
    normalised = (torch.arange(256, dtype=torch.float32)[:, None] / 255 - mean) / std
    _run(_shift, (images.contiguous(), down, right, flip, result), normalised.numpy())
    return result.permute(0, 3, 1, 2)


def augmix(
    images: Tensor, shown: tuple[Tensor, Tensor, Tensor], weights: Tensor, steps: Steps, statistics: Tensor
) -> Tensor:
    """See views.Pixels."""
    result = torch.empty(images.shape, dtype=torch.float32)
    own = (part.movedim(2, 0).contiguous() for part in steps)
    rows = (images.contiguous(), *shown, weights.T.contiguous(), *own, result)
    _run(augmix_numba.augmix, rows, statistics.view(2, 3).numpy())
    return result.permute(0, 3, 1, 2)


def _run(kernel: Callable[..., None], rows: Sequence[Tensor], *shared: np.ndarray) -> None:
    """Run `kernel` on the samples of `rows`, in as many threads as torch uses."""
    in_threads(kernel, torch.get_num_threads(), [row.numpy() for row in rows], *shared)


@kept
def _strong(images, top, left, height, width, flip, factors, gray, result, order, statistics):
    side = images.shape[1]
    pixels = np.empty((3, side * side), float32)
    for i in range(len(images)):
        _crop(images[i], top[i], left[i], height[i], width[i], flip[i], pixels)
        for operation in order:  # numbered as in colour.JITTER
            factor = factors[i, operation]
            if operation == 0:
                _brightness(pixels, factor)
            elif operation == 1:
                _contrast(pixels, factor)
            elif operation == 2:
                _saturation(pixels, factor)
            else:
                _hue(pixels, factor)
        if gray[i]:
            for p in range(side * side):
                pixels[0, p] = pixels[1, p] = pixels[2, p] = _luma(pixels, p)
        _normalise(pixels, statistics, result[i].reshape(side * side, 3))


@kept
def _shift(images, down, right, flip, result, normalised):
    side = images.shape[1]
    for i in range(len(images)):
        for y in range(side):
            row = y + down[i]
            for x in range(side):
                column = (side - 1 - x if flip[i] else x) + right[i]
                if 0 <= row < side and 0 <= column < side:
                    pixel = images[i, uint32(row), uint32(column)]
                    for c in range(3):
                        result[i, y, x, c] = normalised[pixel[c], c]
                else:
                    for c in range(3):
                        result[i, y, x, c] = normalised[0, c]


@njit
def _crop(image, top, left, height, width, flip, pixels):
    """geometry.bilinear and geometry.resample of one image, in integers up to the last division."""
    side = len(image)
    unit = 2 * side
    near, far = np.empty(side, uint32), np.empty(side, uint32)  # unsigned, so that numba checks for no negative indices
    near_weight, far_weight = np.empty(side, float32), np.empty(side, float32)
    for x in range(side):
        position = max(width * (2 * (side - 1 - x if flip else x) + 1) - side, 0)
        near[x], far[x] = left + position // unit, left + min(position // unit + 1, width - 1)
        near_weight[x], far_weight[x] = unit - position % unit, position % unit
    wide = np.empty((3, height * side), float32)
    for y in range(height):
        row = image[uint32(top + y)]
        for x in range(side):
            for c in range(3):
                value = near_weight[x] * float32(row[near[x], c]) + far_weight[x] * float32(row[far[x], c])
                wide[c, uint32(y * side + x)] = value
    for y in range(side):
        position = max(height * (2 * y + 1) - side, 0)
        upper, lower = position // unit * side, min(position // unit + 1, height - 1) * side
        upper_weight, lower_weight = float32(unit - position % unit), float32(position % unit)
        for c in range(3):
            for x in range(side):
                value = upper_weight * wide[c, uint32(upper + x)] + lower_weight * wide[c, uint32(lower + x)]
                pixels[c, uint32(y * side + x)] = value / float32(255 * unit * unit)


@njit
def _brightness(pixels, factor):
    for c in range(3):
        for p in range(pixels.shape[1]):
            pixels[c, p] = _clamp(pixels[c, p] * factor)


@njit
def _contrast(pixels, factor):
    levels = 0
    for p in range(pixels.shape[1]):
        levels += np.int32(_luma(pixels, p) * LEVELS)
    mean = (ONE - factor) * float32(levels / (2**24 * pixels.shape[1]))
    for c in range(3):
        for p in range(pixels.shape[1]):
            pixels[c, p] = _clamp(factor * pixels[c, p] + mean)


@njit
def _saturation(pixels, factor):
    for p in range(pixels.shape[1]):
        gray = (ONE - factor) * _luma(pixels, p)
        # Without a loop over the channels, which would keep the compiler from vectorising the outer loop.
        pixels[0, p] = _clamp(factor * pixels[0, p] + gray)
        pixels[1, p] = _clamp(factor * pixels[1, p] + gray)
        pixels[2, p] = _clamp(factor * pixels[2, p] + gray)


@njit
def _hue(pixels, factor):
    for p in range(pixels.shape[1]):
        red, green, blue = pixels[0, p], pixels[1, p], pixels[2, p]
        value = max(max(red, green), blue)
        chroma = value - min(min(red, green), blue)
        divisor = ONE if chroma == ZERO else chroma
        lack_red, lack_green, lack_blue = (value - red) / divisor, (value - green) / divisor, (value - blue) / divisor
        if value == red:
            sextant = lack_blue - lack_green
        elif value == green:
            sextant = TWO + lack_red - lack_blue
        else:
            sextant = FOUR + lack_green - lack_red
        turn = sextant / SIX + ONE
        turn = turn - np.floor(turn) + factor
        sextant = SIX * (turn - np.floor(turn))
        pixels[0, p] = value - chroma * (ONE - _clamp(abs(sextant - THREE) - ONE))
        pixels[1, p] = value - chroma * (ONE - _clamp(TWO - abs(sextant - TWO)))
        pixels[2, p] = value - chroma * (ONE - _clamp(TWO - abs(sextant - FOUR)))


@njit
def _normalise(pixels, statistics, result):
    for c in range(3):
        for p in range(pixels.shape[1]):
            pixels[c, p] = (pixels[c, p] - statistics[0, c]) / statistics[1, c]
    for p in range(pixels.shape[1]):
        for c in range(3):
            result[p, c] = pixels[c, p]


@njit
def _luma(pixels, p):
    return LUMA[0] * pixels[0, p] + LUMA[1] * pixels[1, p] + LUMA[2] * pixels[2, p]


@njit
def _clamp(value):
    return min(max(value, ZERO), ONE)
