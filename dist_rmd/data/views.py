"""Augmented, normalised views of a uint8 batch, made on the device it is on.

Every draw is keyed by (seed, epoch, sample, view): a sample's pixels are the same, bit by bit, in whatever batch and on
whatever rank it is.  Only the order of the four colour operations is drawn for a whole global batch.
What is drawn is decided here; the arithmetic on pixels is in batched.py and fused.py.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dist_rmd.data import colour, geometry, keyed
from dist_rmd.data.batched import Batched
from dist_rmd.errors import ConfigError

CROP = tuple(f"crop {what} {t}" for what in ("area", "ratio") for t in range(geometry.TRIES))
STRONG = (*CROP, "crop top", "crop left", "flip", "jitter", "brightness", "contrast", "saturation", "hue", "gray")
WEAK = ("shift down", "shift right", "flip")
ORDERS = tuple(itertools.permutations(range(len(colour.JITTER))))
NEUTRAL = (1.0, 1.0, 1.0, 0.0)  # the factors of colour.JITTER that change nothing
SPREAD = (0.4, 0.4, 0.4, 0.1)
JITTER_RATE = 0.8
GRAY_RATE = 0.2


class Pixels(Protocol):
    """Makes views of b x S x S x 3 uint8 `images`, each sample with its own parameters.

    Parameters are of length b.  `statistics` are mean and std, 2 x 1 x 3 x 1 x 1 float32.  Returns b x 3 x S x S
    float32, channels_last.  For sides up to 128 the resizing is exact but for one division.
    """

    def strong(
        self,
        images: Tensor,
        box: tuple[Tensor, Tensor, Tensor, Tensor],
        flip: Tensor,
        order: Sequence[int],
        factors: Sequence[Tensor],
        gray: Tensor,
        statistics: Tensor,
    ) -> Tensor:
        """Crop to `box` (top, left, height, width: int64), enlarge to S x S and mirror where `flip` (bool).

        Then the operations of colour.JITTER in `order`, each with its float32 `factors`, and grayscale where `gray`
        (bool).
        """

    def weak(self, images: Tensor, down: Tensor, right: Tensor, flip: Tensor, statistics: Tensor) -> Tensor:
        """Move by `down` and `right` pixels (int64; what comes in is black), then mirror where `flip` (bool)."""


class Views:
    """Makes one view of each of `kinds` from a batch.

    "strong": RandomResizedCrop(crop_min..1), flip, ColorJitter(.4, .4, .4, .1) with p .8, grayscale with p .2
    (SimSiam's CIFAR recipe, arXiv 2011.10566, without blur); "weak": random crop with side/8 black pixels of padding,
    flip; "plain": the image.  Without `flip` nothing is mirrored.  `mean` and `std` are per channel, of pixels in 0..1.
    Pixels are computed in float32 and handed out as `dtype`.
    With `compiled` the arithmetic on pixels is compiled: for CPUs by numba (some 10 s, once), for other devices by
    torch.compile at the first call (some 20 s).  On CPUs it changes no bit; elsewhere eager and compiled views may
    differ in the last bits, two calls in one mode never do.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        side: int,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        compiled: bool,
        crop_min: float = 0.2,
        flip: bool = True,
        dtype: torch.dtype = torch.float32,
    ):
        for kind in kinds:
            if kind not in ("strong", "weak", "plain"):
                raise ConfigError(f"unknown view {kind!r}: choose from strong, weak, plain")
        self.kinds, self.side, self.seed, self.dtype = tuple(kinds), side, seed, dtype
        self._statistics = torch.tensor([mean, std]).view(2, 1, 3, 1, 1)
        self._crop_min, self._flip_rate = crop_min, 0.5 if flip else 0.0
        self._compiled, self._batched = compiled, Batched(compiled)
        # One epoch's keys serve all its batches.
        self._keys = functools.lru_cache(maxsize=2 * len(self.kinds))(self._fold_keys)

    @torch.no_grad()
    def __call__(self, images: Tensor, indices: Tensor, epoch: int, batch: int) -> tuple[Tensor, ...]:
        """b x S x S x 3 uint8 and b int64 beton positions -> one b x 3 x S x S (channels_last) for each kind.

        `batch` is the number of the global batch in its epoch.
        """
        if images.shape[1:] != (self.side, self.side, 3):
            raise ValueError(f"expected b x {self.side} x {self.side} x 3 images, got {tuple(images.shape)}")
        self._statistics = self._statistics.to(images.device)
        return tuple(
            getattr(self, f"_{kind}")(images, indices, epoch, batch, view).to(self.dtype)
            for view, kind in enumerate(self.kinds)
        )

    def _pixels(self, device: torch.device) -> Pixels:
        if self._compiled and device.type == "cpu":
            # Only where it is used: importing numba takes half a second.
            from dist_rmd.data import fused

            return fused
        return self._batched

    def _strong(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        draws = keyed.draw(self._keys(epoch, view, STRONG, images.device), indices)
        areas, ratios = draws[: geometry.TRIES], draws[geometry.TRIES : 2 * geometry.TRIES]
        top, left, flip, jitter, *strengths, gray = draws[2 * geometry.TRIES :].unbind(0)
        box = geometry.random_resized_boxes(areas, ratios, top, left, self.side, self._crop_min)
        jitter = _happens(jitter, JITTER_RATE)
        factors = [
            torch.where(jitter, neutral + spread * (2 * keyed.unit(strength) - 1), neutral)
            for strength, neutral, spread in zip(strengths, NEUTRAL, SPREAD, strict=True)
        ]
        # One order for all samples of the global batch: an order for each would cost a pass for every one of the 24.
        order = ORDERS[keyed.key(self.seed, epoch, view, f"jitter order {batch}") % len(ORDERS)]
        flip, gray = _happens(flip, self._flip_rate), _happens(gray, GRAY_RATE)
        return self._pixels(images.device).strong(images, box, flip, order, factors, gray, self._statistics)

    def _weak(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        down, right, flip = keyed.draw(self._keys(epoch, view, WEAK, images.device), indices).unbind(0)
        padding = self.side // 8
        down, right = (keyed.below(draw, 2 * padding + 1) - padding for draw in (down, right))
        flip = _happens(flip, self._flip_rate)
        return self._pixels(images.device).weak(images, down, right, flip, self._statistics)

    def _plain(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        mean, std = self._statistics.view(2, 3).repeat(1, self.side).unbind(0)  # rows of S x 3 values vectorise well
        rows = images.view(len(images), self.side, 3 * self.side).to(torch.float32)
        return ((rows / 255 - mean) / std).view(images.shape).permute(0, 3, 1, 2)

    def _fold_keys(self, epoch: int, view: int, whats: tuple[str, ...], device: torch.device) -> Tensor:
        return keyed.keys(self.seed, epoch, view, whats).to(device)


def _happens(draws: Tensor, rate: float) -> Tensor:
    return draws < int(rate * 2**32)
