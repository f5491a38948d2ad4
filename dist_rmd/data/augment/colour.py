"""torchvision's colour operations for a whole batch: every image has a factor of its own.

Images are b x 3 x S x S float32 in 0..1, factors b float32.
"""

import torch
from torch import Tensor

from dist_rmd.data.augment.exact import quotient


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """torchvision's adjust_brightness: multiply each image by its factor and clamp the result to 0..1."""
    return (images * _column(factor)).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """torchvision's adjust_contrast: blend each image with its mean grey level."""
    # An integer sum is the same in every order of summation, so neither batch size nor device changes a bit.
    levels = (gray(images) * 2**24).to(torch.int32).sum((1, 2, 3), dtype=torch.int64)
    mean = quotient(levels.to(torch.float64), 2**24 * images.shape[2] * images.shape[3])
    return _blend(images, _column(mean.to(torch.float32)), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """torchvision's adjust_saturation: blend each image with its grayscale version."""
    return _blend(images, gray(images), factor)


def hue(images: Tensor, factor: Tensor) -> Tensor:
    """torchvision's adjust_hue: turn the hue by `factor` (in turns, -0.5..0.5); HSV's saturation and value stay."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = torch.where(chroma == 0, 1.0, chroma)  # the hue of a grey pixel has no effect
    lack_red, lack_green, lack_blue = ((value - channel) / divisor for channel in (red, green, blue))
    sextant = torch.where(
        value == red,
        lack_blue - lack_green,
        torch.where(value == green, 2 + lack_red - lack_blue, 4 + lack_green - lack_red),
    )
    # Round as torchvision does: an error of the hue is six times as large in the pixels.
    turn = quotient(sextant, 6) + 1
    turn = turn - torch.floor(turn) + factor[:, None, None]
    sextant = 6 * (turn - torch.floor(turn))
    levels = ((sextant - 3).abs() - 1, 2 - (sextant - 2).abs(), 2 - (sextant - 4).abs())  # of red, green, blue
    return torch.stack([value - chroma * (1 - level.clamp(0, 1)) for level in levels], 1)


def gray(images: Tensor) -> Tensor:
    """torchvision's rgb_to_grayscale: the luma (ITU-R 601-2), b x 1 x S x S."""
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


JITTER = (brightness, contrast, saturation, hue)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = _column(factor)
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def _column(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]
