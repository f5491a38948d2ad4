"""AugMix (Hendrycks et al. 2020, https://arxiv.org/abs/1912.02781) of a whole batch, every sample with its own draws.

An image is mixed with versions of itself, each made by a chain of up to three of thirteen operations of PIL.  MODUL's
authors take this view with severity 1.  All is computed in integers up to the last division: a sample's pixels depend
neither on its batch nor on the device.  Images are n x 3 x S x S int32, pixels 0..255.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dist_rmd.data.augment.exact import quotient

CHAINS, DEPTH = 3, 3
UNIT = 2**16
"""weights, factors and levels are integers in units of 1 / UNIT"""
OPERATIONS = (
    "autocontrast", "equalize", "posterize", "solarize", "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
    "color", "contrast", "brightness", "sharpness",
)  # fmt: skip
AUTOCONTRAST, EQUALIZE, POSTERIZE, SOLARIZE, AFFINE, COLOR, CONTRAST, BRIGHTNESS, SHARPNESS = range(9)
"""kinds of OPERATIONS in their order, of which rotate, shear and translate are one"""
NOTHING = -1
TAP = 2**11
"""parts of a pixel that bilinear interpolation tells apart: products of two taps and a pixel fit into int32"""
HALF = UNIT
"""half a pixel in the units of positions, 1 / (2 UNIT) of a pixel"""


class Steps(NamedTuple):
    """What every sample's chains do, for chains x DEPTH x b steps."""

    kind: Tensor
    """int64: one of the nine kinds, or NOTHING"""
    amount: Tensor
    """int64: threshold 0..256 of SOLARIZE; factor 0..UNIT of COLOR, CONTRAST, BRIGHTNESS and SHARPNESS"""
    matrix: Tensor
    """... x 6 int64 of AFFINE: see `affine`"""


def steps(operation: Tensor, level: Tensor, side: int) -> Steps:
    """The steps of operations (places in OPERATIONS, or NOTHING) at the levels of severity 1.

    level: -UNIT..UNIT, without -UNIT/10..UNIT/10; the sign counts for rotate, shear and translate alone.
    Ranges are those of AugMix's code, whose integers are rounded down: at this severity posterize always keeps 4 bits,
    rotate turns by 0, 1 or 2 degrees, and images are moved by at most side / 30 pixels.
    """
    size, sign = level.abs(), level.sign()
    # By arithmetic, since a table would have to be sent to a GPU, which waits.
    kind = operation - (operation - AFFINE).clamp(0, 4)
    solarized = 256 - ((256 * size // 10) >> 16)
    enhanced = UNIT // 10 + 18 * size // 100
    amount = torch.where(operation == OPERATIONS.index("solarize"), solarized, enhanced)
    # Positions are of pixels' centres: x of pixel i is 2 i + 1 in units of half a pixel.
    degrees = sign * ((3 * size) >> 16)
    cosine, sine = UNIT - 10 * degrees**2, 1144 * degrees  # to 1 / UNIT
    shear, shift = sign * (3 * size // 100), sign * ((size * side // 30) >> 16) * 2 * UNIT
    one, none = torch.full_like(size, UNIT), torch.zeros_like(size)
    around = [side * (UNIT - cosine + sine), side * (UNIT - cosine - sine)]
    ways = {
        "rotate": (cosine, -sine, around[0], sine, cosine, around[1]),
        "shear_x": (one, shear, none, none, one, none),
        "shear_y": (one, none, none, shear, one, none),
        "translate_x": (one, none, shift, none, one, none),
        "translate_y": (one, none, none, none, one, shift),
    }
    matrix = torch.stack((one, none, none, none, one, none), -1)
    for name, way in ways.items():
        matrix = torch.where((operation == OPERATIONS.index(name))[..., None], torch.stack(way, -1), matrix)
    return Steps(kind, amount, matrix)


def mixed(images: Tensor, weights: Tensor, steps: Steps) -> Tensor:
    """The images and their chains, weighted: b x 3 x S x S float32, of pixels in 0..1.

    weights: (1 + chains) x b int64 >= 0 in units of 1 / UNIT, that of the image itself first; at most UNIT together.
    """
    chains = len(steps.kind)
    ends = images.repeat(chains, 1, 1, 1)
    for kind, amount, matrix in zip(*(torch.unbind(part, 1) for part in steps), strict=True):
        ends = _stepped(ends, kind.flatten(), amount.flatten(), matrix.flatten(0, 1))
    parts = torch.cat([images[None], ends.view(chains, *images.shape)])
    total = (weights.to(torch.int32)[..., None, None, None] * parts).sum(0, dtype=torch.int32)  # < 2^24
    return quotient(total.to(torch.float32), 255 * UNIT)


def _stepped(images: Tensor, kind: Tensor, amount: Tensor, matrix: Tensor) -> Tensor:
    """One step of n images, each of its own kind (n)."""
    made = images
    amount = amount.to(torch.int32)[:, None, None, None]
    gray = _gray(images)
    degenerate = {
        COLOR: gray,
        CONTRAST: _mean(gray),
        BRIGHTNESS: torch.zeros_like(gray),
        SHARPNESS: smooth(images),
    }
    results = {
        AUTOCONTRAST: autocontrast(images),
        EQUALIZE: equalize(images),
        POSTERIZE: images & 0xF0,
        SOLARIZE: torch.where(images < amount, images, 255 - images),
        AFFINE: affine(images, matrix),
        **{which: (amount * images + (UNIT - amount) * other) >> 16 for which, other in degenerate.items()},
    }
    for which, result in results.items():
        made = torch.where((kind == which)[:, None, None, None], result, made)
    return made


def autocontrast(images: Tensor) -> Tensor:
    """PIL's ImageOps.autocontrast: stretch each channel to 0..255; a channel of one value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, 255 * (images - low) // (high - low).clamp(min=1), images)


def equalize(images: Tensor) -> Tensor:
    """PIL's ImageOps.equalize: about as many pixels of each value, channel by channel."""
    pixels = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, pixels, torch.ones_like(pixels))
    last = counts.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(2, pixels), pixels).to(torch.int32).view(images.shape)


def affine(images: Tensor, matrix: Tensor) -> Tensor:
    """PIL's transform by an affine map with bilinear interpolation; pixels from beyond the border are black.

    matrix: n x 6 int64 (a, b, c, d, e, f): output pixel (column i, row j) is taken from the position
    x = a (2 i + 1) + b (2 j + 1) + c, y = d (2 i + 1) + e (2 j + 1) + f, in units of 1 / (2 UNIT) of a pixel.
    """
    n, channels, side = images.shape[:3]
    odd = 2 * torch.arange(side, device=images.device) + 1
    a, b, c, d, e, f = (value[:, None, None] for value in matrix.unbind(1))
    x, y = a * odd + b * odd[:, None] + c, d * odd + e * odd[:, None] + f
    inside = (x >= 0) & (x < 2 * UNIT * side) & (y >= 0) & (y < 2 * UNIT * side)
    flat = images.flatten(2)

    def taps(position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        near = (position - HALF) >> 17
        weight = ((position - HALF) & (2 * UNIT - 1)) >> 6
        return near.clamp(0, side - 1), (near + 1).clamp(0, side - 1), weight.to(torch.int32).view(n, 1, -1)

    (left, right, across), (upper, lower, down) = taps(x), taps(y)

    def row(of: Tensor) -> Tensor:
        places = ((of * side + column).view(n, 1, -1).expand(-1, channels, -1) for column in (left, right))
        near, far = (flat.gather(2, place) for place in places)
        return (TAP - across) * near + across * far

    blended = ((TAP - down) * row(upper) + down * row(lower)) >> 22
    return torch.where(inside[:, None], blended.view(images.shape), 0)


def smooth(images: Tensor) -> Tensor:
    """PIL's ImageFilter.SMOOTH: weights 1, and 5 in the middle, over 13; the border stays."""
    side = images.shape[2]
    total = 4 * images[:, :, 1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            total = total + images[:, :, row : side - 2 + row, column : side - 2 + column]
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = (2 * total + 13) // 26
    return result


def _gray(images: Tensor) -> Tensor:
    """PIL's conversion to grayscale, n x 1 x S x S."""
    red, green, blue = images.unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16)[:, None]


def _mean(gray: Tensor) -> Tensor:
    """The mean level of gray images, rounded: n x 1 x 1 x 1."""
    count = gray.shape[2] * gray.shape[3]
    return ((2 * gray.sum((1, 2, 3), dtype=torch.int64) + count) // (2 * count)).to(torch.int32)[:, None, None, None]
