"""Augmented, normalised views of a uint8 batch, made on the device it is on.

Every draw is keyed by (seed, epoch, sample, view): a sample's pixels are the same, bit by bit, in whatever batch and on
whatever rank it is.  Only the order of the four colour operations is drawn for a whole global batch.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dist_rmd.data import colour, geometry, keyed
from dist_rmd.errors import ConfigError

CROP = tuple(f"crop {what} {t}" for what in ("area", "ratio") for t in range(geometry.TRIES))
STRONG = (*CROP, "crop top", "crop left", "flip", "jitter", "brightness", "contrast", "saturation", "hue", "gray")
WEAK = ("shift down", "shift right", "flip")
ORDERS = tuple(itertools.permutations(range(len(colour.JITTER))))
NEUTRAL = (1.0, 1.0, 1.0, 0.0)  # the factors of colour.JITTER that change nothing
SPREAD = (0.4, 0.4, 0.4, 0.1)
JITTER_RATE = 0.8
GRAY_RATE = 0.2


class Views:
    """Makes one view of each of `kinds` from a batch.

    "strong": RandomResizedCrop(crop_min..1), flip, ColorJitter(.4, .4, .4, .1) with p .8, grayscale with p .2
    (SimSiam's CIFAR recipe, arXiv 2011.10566, without blur); "weak": random crop with side/8 black pixels of padding,
    flip; "plain": the image.  Without `flip` nothing is mirrored.  `mean` and `std` are per channel, of pixels in 0..1.
    Pixels are computed in float32 and handed out as `dtype`.
    With `compiled` the arithmetic on pixels is compiled at the first call (some 20 s).  Eager and compiled views may
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
        self._run: Callable = _compiled if compiled else _eager
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
        with _full_float32():
            return tuple(
                getattr(self, f"_{kind}")(images, indices, epoch, batch, view).to(self.dtype)
                for view, kind in enumerate(self.kinds)
            )

    def _strong(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        draws = keyed.draw(self._keys(epoch, view, STRONG, images.device), indices)
        areas, ratios = draws[: geometry.TRIES], draws[geometry.TRIES : 2 * geometry.TRIES]
        top, left, flip, jitter, *strengths, gray = draws[2 * geometry.TRIES :].unbind(0)
        box = geometry.random_resized_boxes(areas, ratios, top, left, self.side, self._crop_min)
        pixels = self._run(_crop, images, *box, _happens(flip, self._flip_rate))
        jitter = _happens(jitter, JITTER_RATE)
        factors = [
            torch.where(jitter, neutral + spread * (2 * keyed.unit(strength) - 1), neutral)
            for strength, neutral, spread in zip(strengths, NEUTRAL, SPREAD, strict=True)
        ]
        # One order for all samples of the global batch: an order for each would cost a pass for every one of the 24.
        for i in ORDERS[keyed.key(self.seed, epoch, view, f"jitter order {batch}") % len(ORDERS)]:
            pixels = self._run(colour.JITTER[i], pixels, factors[i])
        return self._run(_finish, pixels, _happens(gray, GRAY_RATE), statistics=self._statistics)

    def _weak(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        down, right, flip = keyed.draw(self._keys(epoch, view, WEAK, images.device), indices).unbind(0)
        padding = self.side // 8
        down, right = (keyed.below(draw, 2 * padding + 1) - padding for draw in (down, right))
        return self._run(_shift, images, down, right, _happens(flip, self._flip_rate), statistics=self._statistics)

    def _plain(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        mean, std = self._statistics.view(2, 3).repeat(1, self.side).unbind(0)  # rows of S x 3 values vectorise well
        rows = images.view(len(images), self.side, 3 * self.side).to(torch.float32)
        return ((rows / 255 - mean) / std).view(images.shape).permute(0, 3, 1, 2)

    def _fold_keys(self, epoch: int, view: int, whats: tuple[str, ...], device: torch.device) -> Tensor:
        return keyed.keys(self.seed, epoch, view, whats).to(device)


def _crop(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, flip: Tensor) -> Tensor:
    side = images.shape[1]
    rows = geometry.bilinear(top, height, torch.zeros_like(flip), side)
    return geometry.resample(images, rows, geometry.bilinear(left, width, flip, side), unit=2 * side)


def _shift(images: Tensor, down: Tensor, right: Tensor, flip: Tensor, statistics: Tensor) -> Tensor:
    side = images.shape[1]
    rows = geometry.shift(down, torch.zeros_like(flip), side)
    return _normalise(geometry.resample(images, rows, geometry.shift(right, flip, side), unit=1), statistics)


def _finish(pixels: Tensor, gray: Tensor, statistics: Tensor) -> Tensor:
    return _normalise(torch.where(gray[:, None, None, None], colour.gray(pixels), pixels), statistics)


def _normalise(pixels: Tensor, statistics: Tensor) -> Tensor:
    mean, std = statistics.unbind(0)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def _happens(draws: Tensor, rate: float) -> Tensor:
    return draws < int(rate * 2**32)


def _eager(function: Callable, *rows: Tensor, **shared: Tensor) -> Tensor:
    return function(*rows, **shared)


def _compiled(function: Callable, *rows: Tensor, **shared: Tensor) -> Tensor:
    """Call the compiled `function`: one graph for every batch size.  `rows` have one row a sample, `shared` do not."""
    if len(rows[0]) == 1:  # torch.compile would make a graph of its own for size 1
        return _compiled(function, *(torch.cat([row, row]) for row in rows), **shared)[:1]
    for row in rows:
        torch._dynamo.mark_dynamic(row, 0, min=2)
        torch._dynamo.mark_static(row, list(range(1, row.ndim)))
    try:
        return _graph(function)(*rows, **shared)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        reason = str(error.inner_exception).strip().partition("\n")[0]
        raise ConfigError(
            f"data.compile_views=true, but torch.compile fails here ({reason}): set it to false"
        ) from error


@functools.cache
def _graph(function: Callable) -> Callable:
    return torch.compile(function)


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """TF32 products would round pixels to 11 bits."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
