"""Crops, resizes and flips a whole batch by two batched matrix products; every sample has parameters of its own.

Matrices and pixels are integers.  For sides up to 128 both products are therefore exact in float32 in any order of
summation: a sample's pixels depend neither on its batch nor on the kernel that the hardware picks.
"""

import math

import torch
from torch import Tensor

from dist_rmd.data.augment import keyed_rng
from dist_rmd.data.augment.exact import quotient

TRIES = 10
LOG_RATIO = math.log(4 / 3)


def random_resized_boxes(
    area_bits: Tensor, ratio_bits: Tensor, top_bits: Tensor, left_bits: Tensor, side: int, smallest: float = 0.2
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """torchvision's RandomResizedCrop.get_params (ratio 3/4..4/3) of a side x side image, for b samples.

    `area_bits` and `ratio_bits` are TRIES x b draws, `top_bits` and `left_bits` b draws; `smallest` is the least area
    of a crop as a fraction of the image's.  Returns top, left, height and width, each b int64.  The first try that fits
    inside the image counts; if no try fits, the box is the whole image.
    """
    # In float64: there the roundings of different compilers and devices are too small to move a border by a pixel.
    area = side * side * (smallest + (1 - smallest) * keyed_rng.unit(area_bits).double())
    ratio = _exp((2 * keyed_rng.unit(ratio_bits).double() - 1) * LOG_RATIO)
    width = torch.sqrt(area * ratio).round().to(torch.int64)
    height = torch.sqrt(area / ratio).round().to(torch.int64)
    fits = (width > 0) & (width <= side) & (height > 0) & (height <= side)
    first = fits & (fits.cumsum(0) == 1)
    none = side * ~fits.any(0)
    width = (width * first).sum(0) + none
    height = (height * first).sum(0) + none
    return keyed_rng.below(top_bits, side + 1 - height), keyed_rng.below(left_bits, side + 1 - width), height, width


def bilinear(start: Tensor, size: Tensor, flip: Tensor, side: int) -> Tensor:
    """Weights that enlarge pixels start..start+size-1 of an axis to `side` pixels; where `flip`, in reverse order.

    `start`, `size` (int64) and `flip` (bool) are of length b; the result is b x side x side (output, input), integers
    in units of 1/(2 side).  Pixel centres lie at halves and edges are repeated, as in torchvision's bilinear
    interpolation with antialias, which has no effect while size <= side.
    """
    output = torch.arange(side, device=start.device)
    output = torch.where(flip[:, None], side - 1 - output, output)
    position = (size[:, None] * (2 * output + 1) - side).clamp(min=0)  # of the output's centre, in units of 1/(2 side)
    near, weight = position // (2 * side), position % (2 * side)
    far = torch.minimum(near + 1, size[:, None] - 1)
    return _taps(start[:, None] + near, 2 * side - weight, side) + _taps(start[:, None] + far, weight, side)


def shift(offset: Tensor, flip: Tensor, side: int) -> Tensor:
    """Weights (0 or 1) that shift an axis: output pixel o is input pixel o + offset, or black beyond the border.

    The axis is mirrored where `flip`.  `offset` (int64, may be negative) and `flip` (bool) are of length b; the result
    is b x side x side (output, input).
    """
    output = torch.arange(side, device=offset.device)
    output = torch.where(flip[:, None], side - 1 - output, output)
    return _taps(output + offset[:, None], torch.ones_like(output), side)


def resample(images: Tensor, rows: Tensor, columns: Tensor, unit: int) -> Tensor:
    """Resample images (b x S x S x 3 uint8) by the weights of their rows and columns -> b x 3 x S x S float32 in 0..1.

    rows, columns: b x S x S each (output, input), integers in units of 1/unit.
    """
    b, side = images.shape[:2]
    pixels = images.permute(0, 1, 3, 2).to(torch.float32).reshape(b, side, 3 * side)
    pixels = torch.bmm(rows, pixels).view(b, 3 * side, side)
    pixels = torch.bmm(pixels, columns.transpose(1, 2)).view(b, side, 3, side)
    return quotient(pixels, 255 * unit * unit).permute(0, 2, 1, 3).contiguous()


def _taps(source: Tensor, weight: Tensor, side: int) -> Tensor:
    """b x side x side float32 (output, input): the b x side `weight` at input `source` of each output, else 0."""
    pixel = torch.arange(side, device=source.device, dtype=torch.int32)
    return torch.where(source.to(torch.int32)[..., None] == pixel, weight.to(torch.float32)[..., None], 0.0)


def _exp(x: Tensor) -> Tensor:
    """exp(x) for |x| < 0.3, to float64 accuracy.

    A library's exp may round the last elements of a vector differently from the others; this series does not.
    """
    result = torch.ones_like(x)
    for n in range(13, 0, -1):
        result = 1 + quotient(result * x, n)
    return result
