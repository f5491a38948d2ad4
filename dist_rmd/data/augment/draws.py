"""Draws the parameters of a view (crop, flip, colours) for each sample, from random numbers keyed by the sample."""

import itertools

import torch
from torch import Tensor

from dist_rmd.data.augment import augmix as chains
from dist_rmd.data.augment import colour, geometry, keyed_rng

CROP = tuple(f"crop {what} {t}" for what in ("area", "ratio") for t in range(geometry.TRIES))
STRONG = (*CROP, "crop top", "crop left", "flip", "jitter", "brightness", "contrast", "saturation", "hue", "gray")
WINDOW = ("window down", "window right")
WEAK = ("shift down", "shift right", "flip")
AUGMIX = (
    *WEAK, "augmix share", "augmix cut 0", "augmix cut 1", *(f"augmix depth {chain}" for chain in range(chains.CHAINS)),
    *(
        f"augmix {what} {chain} {step}"
        for what in ("operation", "level", "sign")
        for chain in range(chains.CHAINS)
        for step in range(chains.DEPTH)
    ),
)  # fmt: skip
ORDERS = tuple(itertools.permutations(range(len(colour.JITTER))))
NEUTRAL = (1.0, 1.0, 1.0, 0.0)  # the factors of colour.JITTER that change nothing
SPREAD = (0.4, 0.4, 0.4, 0.1)
JITTER_RATE = 0.8
GRAY_RATE = 0.2


def order(seed: int, epoch: int, view: int, batch: int) -> int:
    """The place in ORDERS of the order in which all samples of global batch `batch` get their colour operations.

    An order of its own for each sample would cost 24 passes over the batch.
    """
    return keyed_rng.key(seed, epoch, view, f"jitter order {batch}") % len(ORDERS)


def strong(
    keys: Tensor, indices: Tensor, side: int, crop_min: float, flip_rate: float
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor, list[Tensor], Tensor]:
    """Parameters of the "strong" view of b samples.

    keys: those of STRONG, see keyed_rng.keys.  indices: b beton positions, int64.  side: of the images, in pixels.
    crop_min: the least area of a crop, as a fraction of the image.  flip_rate: probability of a flip, 0..1.

    Returns the box of the crop (top, left, height, width: b int64 each), which samples are mirrored (b bool), the
    factors of each operation in colour.JITTER (b float32 each), and which samples become grayscale (b bool).
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


def window(keys: Tensor, indices: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """First rows and columns (b int64 each) of windows of half the side, anywhere in the image; keys: of WINDOW."""
    down, right = (keyed_rng.below(draw, side - side // 2 + 1) for draw in keyed_rng.draw(keys, indices).unbind(0))
    return down, right


def weak(keys: Tensor, indices: Tensor, side: int, flip_rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters of the "weak" view of b samples; arguments as for `strong`.

    Returns how far down and right each pixel is taken from (b int64 each, at most side // 8 pixels either way), and
    which samples are mirrored (b bool).
    """
    down, right, flip = keyed_rng.draw(keys, indices).unbind(0)
    padding = side // 8
    down, right = (keyed_rng.below(draw, 2 * padding + 1) - padding for draw in (down, right))
    return down, right, _happens(flip, flip_rate)


def augmix(
    keys: Tensor, indices: Tensor, side: int, flip_rate: float
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, chains.Steps]:
    """Parameters of the "augmix" view of b samples; arguments as for `strong`.

    Returns the parameters of the weak view before it, the weights of the image and of its chains ((1 + CHAINS) x b,
    see augmix.mixed; UNIT together), and the steps of the chains.  The image's weight is uniform in 0..1, the chains
    share the rest as Dirichlet(1, 1, 1) does.
    """
    first, rest = len(WEAK), keyed_rng.draw(keys[len(WEAK) :], indices)
    shown = weak(keys[:first], indices, side, flip_rate)
    share, *cuts = (draw >> 16 for draw in rest[:3])
    low, high = ((share * cut) >> 16 for cut in (torch.minimum(*cuts), torch.maximum(*cuts)))
    weights = torch.stack([chains.UNIT - share, low, high - low, share - high])
    depth = keyed_rng.below(rest[3 : 3 + chains.CHAINS], chains.DEPTH) + 1
    operation, level, sign = rest[3 + chains.CHAINS :].view(3, chains.CHAINS, chains.DEPTH, -1)
    operation = keyed_rng.below(operation, len(chains.OPERATIONS))
    operation = torch.where(torch.arange(chains.DEPTH, device=depth.device)[:, None] < depth[:, None], operation, -1)
    level = (chains.UNIT + 9 * (level >> 16)) // 10  # uniform in 0.1..1
    return shown, weights, chains.steps(operation, torch.where(_happens(sign, 0.5), -level, level), side)


def _happens(draws: Tensor, rate: float) -> Tensor:
    return draws < int(rate * 2**32)
