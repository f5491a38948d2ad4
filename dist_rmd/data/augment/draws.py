"""What is drawn for a view: the parameters of its crop, flip and colours, from each sample's keyed draws."""

import itertools

import torch
from torch import Tensor

from dist_rmd.data.augment import colour, geometry, keyed_rng

CROP = tuple(f"crop {what} {t}" for what in ("area", "ratio") for t in range(geometry.TRIES))
STRONG = (*CROP, "crop top", "crop left", "flip", "jitter", "brightness", "contrast", "saturation", "hue", "gray")
WEAK = ("shift down", "shift right", "flip")
ORDERS = tuple(itertools.permutations(range(len(colour.JITTER))))
NEUTRAL = (1.0, 1.0, 1.0, 0.0)  # the factors of colour.JITTER that change nothing
SPREAD = (0.4, 0.4, 0.4, 0.1)
JITTER_RATE = 0.8
GRAY_RATE = 0.2


def order(seed: int, epoch: int, view: int, batch: int) -> int:
    """Which of ORDERS: one for all samples of global batch `batch`, where one for each would cost 24 passes."""
    return keyed_rng.key(seed, epoch, view, f"jitter order {batch}") % len(ORDERS)


def strong(
    keys: Tensor, indices: Tensor, side: int, crop_min: float, flip_rate: float
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor, list[Tensor], Tensor]:
    """Parameters of b samples, for the words `keys` of STRONG (see keyed.keys) and b int64 beton positions.

    Returns the box (top, left, height, width: b int64 each), where to mirror (b bool), the factors of each of
    colour.JITTER (b float32 each) and where to take the colours away (b bool).
    """
    draws = keyed_rng.draw(keys, indices)
    areas, ratios = draws[: geometry.TRIES], draws[geometry.TRIES : 2 * geometry.TRIES]
    top, left, flip, jitter, *strengths, gray = draws[2 * geometry.TRIES :].unbind(0)
    box = geometry.random_resized_boxes(areas, ratios, top, left, side, crop_min)
    jitter = _happens(jitter, JITTER_RATE)
    factors = [
        torch.where(jitter, neutral + spread * (2 * keyed_rng.unit(strength) - 1), neutral)
        for strength, neutral, spread in zip(strengths, NEUTRAL, SPREAD, strict=True)
    ]
    return box, _happens(flip, flip_rate), factors, _happens(gray, GRAY_RATE)


def weak(keys: Tensor, indices: Tensor, side: int, flip_rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Shift down and to the right (b int64 each, within side / 8) and where to mirror, as for `strong`."""
    down, right, flip = keyed_rng.draw(keys, indices).unbind(0)
    padding = side // 8
    down, right = (keyed_rng.below(draw, 2 * padding + 1) - padding for draw in (down, right))
    return down, right, _happens(flip, flip_rate)


def _happens(draws: Tensor, rate: float) -> Tensor:
    return draws < int(rate * 2**32)
