"""augmix.mixed and the weak view before it on CPUs, compiled by numba: each sample goes through all of its steps."""

import numpy as np
from numba import njit
from numpy import float32, int32, uint32

from dist_rmd.data.augment.augmix import (
    AFFINE,
    AUTOCONTRAST,
    BRIGHTNESS,
    COLOR,
    CONTRAST,
    EQUALIZE,
    HALF,
    POSTERIZE,
    SHARPNESS,
    SOLARIZE,
    TAP,
    UNIT,
)
from dist_rmd.data.augment.kernels import kept


@kept
def augmix(images, down, right, flip, weights, kind, amount, matrix, result, statistics):
    """See views.Pixels; images and parameters are of b rows each, `result` is b x S x S x 3 float32."""
    side = images.shape[1]
    plain, chain = np.empty((3, side, side), int32), np.empty((3, side, side), int32)
    spare, total = np.empty((3, side, side), int32), np.empty((3, side, side), int32)
    for i in range(len(images)):
        _shifted(images[i], down[i], right[i], flip[i], plain)
        share = int32(weights[i, 0])
        for c in range(3):
            for y in range(side):
                for x in range(side):
                    total[c, y, x] = share * plain[c, y, x]
        for k in range(kind.shape[1]):
            chain[:] = plain
            for d in range(kind.shape[2]):
                _step(kind[i, k, d], int32(amount[i, k, d]), matrix[i, k, d], chain, spare)
            weight = int32(weights[i, k + 1])
            share += weight
            for c in range(3):
                for y in range(side):
                    for x in range(side):
                        total[c, y, x] += weight * chain[c, y, x]
        part = float32(share) / float32(UNIT)
        for c in range(3):
            mean = part * statistics[0, c]
            for y in range(side):
                for x in range(side):
                    pixel = float32(total[c, y, x]) / float32(255 * UNIT)
                    result[i, y, x, c] = (pixel - mean) / statistics[1, c]


@njit
def _shifted(image, down, right, flip, plain):
    side = len(image)
    for y in range(side):
        row = y + down
        for x in range(side):
            column = (side - 1 - x if flip else x) + right
            inside = 0 <= row < side and 0 <= column < side
            for c in range(3):
                plain[c, y, x] = image[uint32(row), uint32(column), c] if inside else 0


@njit
def _step(kind, amount, matrix, chain, spare):
    side = chain.shape[1]
    if kind == AUTOCONTRAST:
        for c in range(3):
            low, high = chain[c].min(), chain[c].max()
            if high > low:
                for y in range(side):
                    for x in range(side):
                        chain[c, y, x] = 255 * (chain[c, y, x] - low) // (high - low)
    elif kind == EQUALIZE:
        for c in range(3):
            _equalize(chain[c])
    elif kind == POSTERIZE:
        for c in range(3):
            for y in range(side):
                for x in range(side):
                    chain[c, y, x] &= 0xF0
    elif kind == SOLARIZE:
        for c in range(3):
            for y in range(side):
                for x in range(side):
                    if chain[c, y, x] >= amount:
                        chain[c, y, x] = 255 - chain[c, y, x]
    elif kind == AFFINE:
        _affine(chain, matrix, spare)
        chain[:] = spare
    elif kind >= COLOR:
        _degenerate(kind, chain, spare)
        for c in range(3):
            for y in range(side):
                for x in range(side):
                    chain[c, y, x] = (amount * chain[c, y, x] + (UNIT - amount) * spare[c, y, x]) >> 16


@njit
def _equalize(channel):
    counts = np.zeros(256, int32)
    for value in channel.flat:
        counts[value] += 1
    step = (channel.size - counts[channel.max()]) // 255
    if step == 0:
        return
    table, before = np.empty(256, int32), step // 2
    for value in range(256):
        table[value] = min(before // step, 255)
        before += counts[value]
    for y in range(len(channel)):
        for x in range(len(channel)):
            channel[y, x] = table[channel[y, x]]


@njit
def _affine(image, matrix, result):
    side = image.shape[1]
    end = 2 * UNIT * side
    for j in range(side):
        for i in range(side):
            x = matrix[0] * (2 * i + 1) + matrix[1] * (2 * j + 1) + matrix[2]
            y = matrix[3] * (2 * i + 1) + matrix[4] * (2 * j + 1) + matrix[5]
            if x < 0 or x >= end or y < 0 or y >= end:
                for c in range(3):
                    result[c, j, i] = 0
                continue
            x, y = x - HALF, y - HALF
            left, right = max(x >> 17, 0), min((x >> 17) + 1, side - 1)
            upper, lower = max(y >> 17, 0), min((y >> 17) + 1, side - 1)
            across, down = (x & (2 * UNIT - 1)) >> 6, (y & (2 * UNIT - 1)) >> 6
            for c in range(3):
                first = (TAP - across) * image[c, upper, left] + across * image[c, upper, right]
                second = (TAP - across) * image[c, lower, left] + across * image[c, lower, right]
                result[c, j, i] = ((TAP - down) * first + down * second) >> 22


@njit
def _degenerate(kind, image, result):
    """The image without colour, contrast, brightness or sharpness."""
    side = image.shape[1]
    if kind == SHARPNESS:
        result[:] = image
        for c in range(3):
            for y in range(1, side - 1):
                for x in range(1, side - 1):
                    total = 4 * image[c, y, x]
                    for row in range(y - 1, y + 2):
                        for column in range(x - 1, x + 2):
                            total += image[c, row, column]
                    result[c, y, x] = (2 * total + 13) // 26
        return
    levels = 0
    for y in range(side):
        for x in range(side):
            red, green, blue = image[0, y, x], image[1, y, x], image[2, y, x]
            gray = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16
            levels += gray
            for c in range(3):
                result[c, y, x] = 0 if kind == BRIGHTNESS else gray
    if kind == CONTRAST:
        result[:] = (2 * levels + side * side) // (2 * side * side)
