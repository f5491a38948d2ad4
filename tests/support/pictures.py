"""Images that views are tested on."""

import torch
from torch import Tensor


def pictures(n: int, side: int) -> Tensor:
    """Black, white, flat grey, red and noise, n >= 5 in all: everything that hue and contrast treat specially."""
    generator = torch.Generator().manual_seed(side)
    result = torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=generator)
    result[0], result[1], result[2] = 0, 255, 128
    result[3, ..., 0] = 255
    return result
