"""Views on GPUs: a single Triton kernel draws a sample's parameters and makes its pixels; each sample is one program.

In torch, a view takes some 300 kernels, which the host launches one by one: longer than a small batch takes to train.
This kernel draws as draws.py does, crops by the two nonzero entries in each row of geometry.py's matrices (the taps),
and changes the colours as colour.py does.  Every operation rounds as in these files: divisions and square roots are
IEEE's, and no multiplication is fused with an addition.  The bits are therefore those of pixels_torch.py.  The first
call compiles (seconds); Triton caches the kernel on disk.
"""

from subprocess import CalledProcessError
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from dist_rmd.data.augment import draws, geometry
from dist_rmd.errors import ConfigError

OPTIONS = {"enable_fp_fusion": False}  # a fused multiply-add rounds once where torch rounds twice
TRIES = tl.constexpr(geometry.TRIES)
TOP, LEFT, FLIP, JITTER, STRENGTHS, GRAY = (
    tl.constexpr(draws.STRONG.index(what)) for what in ("crop top", "crop left", "flip", "jitter", "brightness", "gray")
)
BRIGHTNESS, CONTRAST, SATURATION, HUE = (tl.constexpr(spread) for spread in draws.SPREAD)
JITTER_BELOW, GRAY_BELOW = (tl.constexpr(int(rate * 2**32)) for rate in (draws.JITTER_RATE, draws.GRAY_RATE))
LOG_RATIO = tl.constexpr(geometry.LOG_RATIO)


def strong(
    images: Tensor, indices: Tensor, keys: Tensor, order: int, statistics: Tensor, crop_min: float, flip_rate: float
) -> Tensor:
    """The "strong" view: images b x S x S x 3 uint8 -> b x 3 x S x S float32, channels_last; S <= 128.

    `indices`, `keys`, `crop_min` and `flip_rate` are those of draws.strong; `order` is a place in draws.ORDERS;
    `statistics` are those of views.Pixels.
    """
    numbers = sum(number << 2 * place for place, number in enumerate(draws.ORDERS[order]))
    return _launch(strong_kernel, images, indices, keys, statistics, numbers, _below(flip_rate), CROP_MIN=crop_min)


def weak(images: Tensor, indices: Tensor, keys: Tensor, statistics: Tensor, flip_rate: float) -> Tensor:
    """The "weak" view; shapes as for `strong`, `indices`, `keys` and `flip_rate` as for draws.weak."""
    return _launch(weak_kernel, images, indices, keys, statistics, _below(flip_rate))


def _launch(
    kernel: Any, images: Tensor, indices: Tensor, keys: Tensor, statistics: Tensor, *drawing: int, **constants: float
) -> Tensor:
    result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    side = images.shape[1]
    block = triton.next_power_of_2(side * side)
    tensors = images.contiguous(), indices.contiguous(), keys.contiguous(), statistics.contiguous(), result
    try:
        kernel[(len(images),)](
            *tensors, *drawing, **constants, SIDE=side, BLOCK=block, num_warps=warps(block), **OPTIONS
        )
    except (RuntimeError, TritonError, CalledProcessError) as error:  # no GPU that Triton knows, no C compiler...
        if kernel in _launched:  # Triton works here, so the error has another cause
            raise
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"data.compile_views=true, but Triton fails here ({reason}): set it to false") from error
    _launched.add(kernel)
    return result.permute(0, 3, 1, 2)


_launched: set[Any] = set()
"""kernels that Triton has started in this process"""


def warps(block: int) -> int:
    """Number of warps of a kernel for `block` pixels.

    Each thread has 8 to 16 pixels, so that images up to 64 x 64 stay in the registers.
    """
    return min(max(block // 256, 4), 32)


def _below(rate: float) -> int:
    """The number that a draw of 32 bits is below with probability `rate`."""
    return int(rate * 2**32)


@triton.jit(do_not_specialize=["order", "flip_below"])
def strong_kernel(
    images, indices, keys, statistics, result, order, flip_below,
    CROP_MIN: tl.constexpr, SIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    index = tl.load(indices + sample)
    top, left, height, width = _box(keys, index, CROP_MIN, SIDE)
    flip = _draw(keys, FLIP, index) < flip_below
    red, green, blue = _crop(images + sample * (3 * SIDE * SIDE), top, left, height, width, flip, SIDE, BLOCK)
    jitter = _draw(keys, JITTER, index) < JITTER_BELOW
    for place in tl.static_range(4):
        number = (order >> 2 * place) & 3  # as in colour.JITTER
        strength = 2 * _unit(_draw(keys, STRENGTHS + number, index)) - 1
        if number == 0:
            red, green, blue = _brightness(red, green, blue, tl.where(jitter, 1 + BRIGHTNESS * strength, 1.0))
        elif number == 1:
            red, green, blue = _contrast(red, green, blue, tl.where(jitter, 1 + CONTRAST * strength, 1.0), SIDE, BLOCK)
        elif number == 2:
            red, green, blue = _saturation(red, green, blue, tl.where(jitter, 1 + SATURATION * strength, 1.0))
        else:
            red, green, blue = _hue(red, green, blue, tl.where(jitter, HUE * strength, 0.0))
    if _draw(keys, GRAY, index) < GRAY_BELOW:
        red = _luma(red, green, blue)
        green = red
        blue = red
    _store(red, green, blue, statistics, result + sample * (3 * SIDE * SIDE), SIDE, BLOCK)


@triton.jit(do_not_specialize=["flip_below"])
def weak_kernel(
    images, indices, keys, statistics, result, flip_below, SIDE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    sample = tl.program_id(0).to(tl.int64)
    index = tl.load(indices + sample)
    padding: tl.constexpr = SIDE // 8
    down = _integer(keys, 0, index, 2 * padding + 1).to(tl.int32) - padding
    right = _integer(keys, 1, index, 2 * padding + 1).to(tl.int32) - padding
    flip = _draw(keys, 2, index) < flip_below
    pixel = tl.arange(0, BLOCK)
    row = pixel // SIDE + down
    column = _mirrored(pixel % SIDE, flip, SIDE) + right
    inside = (pixel < SIDE * SIDE) & (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
    place = images + sample * (3 * SIDE * SIDE) + (row * SIDE + column) * 3
    red = tl.div_rn(tl.load(place, mask=inside, other=0).to(tl.float32), 255.0)
    green = tl.div_rn(tl.load(place + 1, mask=inside, other=0).to(tl.float32), 255.0)
    blue = tl.div_rn(tl.load(place + 2, mask=inside, other=0).to(tl.float32), 255.0)
    _store(red, green, blue, statistics, result + sample * (3 * SIDE * SIDE), SIDE, BLOCK)


# Draws: keyed_rng.py and geometry.random_resized_boxes


@triton.jit
def _draw(keys, number, index):
    """32 random bits (int64) for key `number` and sample `index`."""
    first = tl.load(keys + 2 * number)
    second = tl.load(keys + 2 * number + 1)
    return _mix(_mix(index ^ first) ^ second)


@triton.jit
def _mix(x):
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)


@triton.jit
def _unit(bits):
    return (bits >> 8).to(tl.float32) * (2**-24)


@triton.jit
def _integer(keys, number, index, limit):
    return (_draw(keys, number, index) * limit) >> 32


@triton.jit
def _box(keys, index, CROP_MIN: tl.constexpr, SIDE: tl.constexpr):
    """The box of the crop: top, left, height, width (int32)."""
    attempt = tl.arange(0, 16)
    number = tl.minimum(attempt, TRIES - 1)
    area = SIDE * SIDE * (CROP_MIN + (1 - CROP_MIN) * _unit(_draw(keys, number, index)).to(tl.float64))
    ratio = _exp((2 * _unit(_draw(keys, TRIES + number, index)).to(tl.float64) - 1) * LOG_RATIO)
    width = tl.floor(tl.sqrt(area * ratio) + 0.5).to(tl.int64)
    height = tl.floor(tl.sqrt(area / ratio) + 0.5).to(tl.int64)
    fits = (attempt < TRIES) & (width > 0) & (width <= SIDE) & (height > 0) & (height <= SIDE)
    first = tl.min(tl.where(fits, attempt, 16), 0)
    width = tl.sum(tl.where(attempt == first, width, 0), 0)
    height = tl.sum(tl.where(attempt == first, height, 0), 0)
    if first == 16:
        width += SIDE
        height += SIDE
    top = _integer(keys, TOP, index, SIDE + 1 - height)
    left = _integer(keys, LEFT, index, SIDE + 1 - width)
    return top.to(tl.int32), left.to(tl.int32), height.to(tl.int32), width.to(tl.int32)


@triton.jit
def _exp(x):
    result = 1.0 + 0 * x
    for i in tl.static_range(13):
        result = 1 + result * x / (13 - i)
    return result


# Pixels: geometry.bilinear and resample, colour.py


@triton.jit
def _crop(image, top, left, height, width, flip, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    pixel = tl.arange(0, BLOCK)
    inside = pixel < SIDE * SIDE
    upper, lower, upper_weight, lower_weight = _taps(pixel // SIDE, top, height, SIDE)
    near, far, near_weight, far_weight = _taps(_mirrored(pixel % SIDE, flip, SIDE), left, width, SIDE)
    upper, lower = image + upper * (3 * SIDE), image + lower * (3 * SIDE)
    corners = upper + 3 * near, upper + 3 * far, lower + 3 * near, lower + 3 * far
    weights = upper_weight, lower_weight, near_weight, far_weight
    red = _resampled(corners, weights, inside, 0, SIDE)
    green = _resampled(corners, weights, inside, 1, SIDE)
    blue = _resampled(corners, weights, inside, 2, SIDE)
    return red, green, blue


@triton.jit
def _mirrored(output, flip, SIDE: tl.constexpr):
    return tl.where(flip, SIDE - 1 - output, output)


@triton.jit
def _taps(output, start, size, SIDE: tl.constexpr):
    """The two input pixels of each output, and their weights in units of 1 / (2 SIDE)."""
    position = tl.maximum(size * (2 * output + 1) - SIDE, 0)
    near = position // (2 * SIDE)
    weight = position % (2 * SIDE)
    far = tl.minimum(near + 1, size - 1)
    return start + near, start + far, (2 * SIDE - weight).to(tl.float32), weight.to(tl.float32)


@triton.jit
def _resampled(corners, weights, inside, channel: tl.constexpr, SIDE: tl.constexpr):
    upper_near, upper_far, lower_near, lower_far = corners
    upper_weight, lower_weight, near_weight, far_weight = weights
    upper = near_weight * tl.load(upper_near + channel, mask=inside, other=0).to(tl.float32)
    upper += far_weight * tl.load(upper_far + channel, mask=inside, other=0).to(tl.float32)
    lower = near_weight * tl.load(lower_near + channel, mask=inside, other=0).to(tl.float32)
    lower += far_weight * tl.load(lower_far + channel, mask=inside, other=0).to(tl.float32)
    unit: tl.constexpr = 2 * SIDE
    return tl.div_rn(upper_weight * upper + lower_weight * lower, 1.0 * 255 * unit * unit)


@triton.jit
def _brightness(red, green, blue, factor):
    return _clamp(red * factor), _clamp(green * factor), _clamp(blue * factor)


@triton.jit
def _contrast(red, green, blue, factor, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    levels = (_luma(red, green, blue) * 2**24).to(tl.int32).to(tl.int64)
    levels = tl.sum(tl.where(tl.arange(0, BLOCK) < SIDE * SIDE, levels, 0), 0)
    mean = (levels.to(tl.float64) / (2**24 * SIDE * SIDE)).to(tl.float32)
    return _blend(red, green, blue, mean, factor)


@triton.jit
def _saturation(red, green, blue, factor):
    return _blend(red, green, blue, _luma(red, green, blue), factor)


@triton.jit
def _blend(red, green, blue, other, factor):
    other = (1 - factor) * other
    return _clamp(factor * red + other), _clamp(factor * green + other), _clamp(factor * blue + other)


@triton.jit
def _hue(red, green, blue, factor):
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    divisor = tl.where(chroma == 0, 1.0, chroma)
    lack_red = tl.div_rn(value - red, divisor)
    lack_green = tl.div_rn(value - green, divisor)
    lack_blue = tl.div_rn(value - blue, divisor)
    sextant = tl.where(
        value == red,
        lack_blue - lack_green,
        tl.where(value == green, 2 + lack_red - lack_blue, 4 + lack_green - lack_red),
    )
    turn = tl.div_rn(sextant, 6.0) + 1
    turn = turn - tl.floor(turn) + factor
    sextant = 6 * (turn - tl.floor(turn))
    red = value - chroma * (1 - _clamp(tl.abs(sextant - 3) - 1))
    green = value - chroma * (1 - _clamp(2 - tl.abs(sextant - 2)))
    blue = value - chroma * (1 - _clamp(2 - tl.abs(sextant - 4)))
    return red, green, blue


@triton.jit
def _luma(red, green, blue):
    return 0.2989 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _clamp(value):
    return tl.minimum(tl.maximum(value, 0.0), 1.0)


@triton.jit
def _store(red, green, blue, statistics, result, SIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Normalise the pixels and store them as S x S x 3.  `statistics`: three means, three standard deviations."""
    pixel = tl.arange(0, BLOCK)
    inside = pixel < SIDE * SIDE
    place = result + 3 * pixel
    tl.store(place, tl.div_rn(red - tl.load(statistics), tl.load(statistics + 3)), mask=inside)
    tl.store(place + 1, tl.div_rn(green - tl.load(statistics + 1), tl.load(statistics + 4)), mask=inside)
    tl.store(place + 2, tl.div_rn(blue - tl.load(statistics + 2), tl.load(statistics + 5)), mask=inside)
