"""Makes augmented, normalised views of a uint8 batch on the batch's device.

Every draw is keyed by (seed, epoch, sample, view): a sample's pixels are the same, to the bit, in any batch and on any
rank.  Only the order of the four colour operations is drawn for a whole global batch.
draws.py draws the parameters; pixels_torch.py computes the pixels.  pixels_numba.py (CPU) and views_triton.py (GPU)
compute the same bits faster.
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dist_rmd.data.augment import draws, keyed_rng, pixels_torch
from dist_rmd.data.augment.augmix import CHAINS, Steps
from dist_rmd.data.augment.exact import quotient
from dist_rmd.engine.precision import full_float32
from dist_rmd.errors import ConfigError

KINDS = ("strong", "local", "weak", "augmix", "augmix_last", "plain")
LARGEST = 128
"""the largest side of images that are resized exactly; on GPUs pixels_torch.py makes the views of larger images"""


class Pixels(Protocol):
    """Makes views of b x S x S x 3 uint8 `images`, each sample with its own parameters.

    Parameters are of length b.  `statistics` are the mean and std of the channels, 2 x 1 x 3 x 1 x 1 float32.  Returns
    b x 3 x S x S float32, channels_last.  For sides up to LARGEST only the last division of the resizing rounds.
    """

    def strong(
        self,
        images: Tensor,
        box: tuple[Tensor, Tensor, Tensor, Tensor],
        flip: Tensor,
        factors: Sequence[Tensor],
        gray: Tensor,
        order: Sequence[int],
        statistics: Tensor,
    ) -> Tensor:
        """The "strong" view: crop to `box` (top, left, height, width: int64), enlarge to S x S, mirror where `flip`.

        Then apply the operations of colour.JITTER in `order`, each with its float32 `factors`, and make the image
        grayscale where `gray`.  `flip` and `gray` are bool.
        """

    def weak(self, images: Tensor, down: Tensor, right: Tensor, flip: Tensor, statistics: Tensor) -> Tensor:
        """The "weak" view: take each pixel from `down` and `right` (int64) further on, then mirror where `flip` (bool).

        Pixels from beyond the border are black.
        """

    def augmix(
        self, images: Tensor, shown: tuple[Tensor, Tensor, Tensor], weights: Tensor, steps: Steps, statistics: Tensor
    ) -> Tensor:
        """The "augmix" view: the weak view with the parameters `shown`, mixed with chains of operations on it.

        See augmix.mixed.  Where the weights sum to less than 1, the missing part is the mean colour.
        """


class Views:
    """Makes one view of each of `kinds` from a batch.

    "strong": RandomResizedCrop(crop_min..1), flip, ColorJitter(.4, .4, .4, .1) with p .8, grayscale with p .2
    (SimSiam's CIFAR recipe, arXiv 2011.10566, without blur); "local": a random window of half the side out of such a
    view, that is of crop_min/4..1/4 of the area (DINO, arXiv 2104.14294, takes 0.05..0.4, or 0.05..0.14 for a ResNet);
    "weak": random crop with side/8 black pixels of padding, flip; "augmix": such a view, mixed with three chains of
    operations on it (AugMix, arXiv 1912.02781, severity 1); "augmix_last": the same without the first two chains, as in
    the code of MODUL's authors; "plain": the image.  Without `flip` no view is mirrored.  `mean` and `std` are per
    channel, of pixels in 0..1.
    Pixels are computed in float32 and returned as `dtype`.
    With `compiled`, one compiled kernel does all operations: numba's on CPUs (compiles once, some 10 s), Triton's on
    GPUs (compiles once, seconds; sides up to 128; AugMix is plain torch there).  The pixels are the same, to the bit.
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
            if kind not in KINDS:
                raise ConfigError(f"unknown view {kind!r}: choose from {', '.join(KINDS)}")
        self.kinds, self.side, self.seed, self.dtype = tuple(kinds), side, seed, dtype
        self._statistics = torch.tensor([mean, std]).view(2, 1, 3, 1, 1)
        self._crop_min, self._flip_rate = crop_min, 0.5 if flip else 0.0
        self._compiled = compiled
        # All batches of an epoch share the epoch's keys.
        self._keys = functools.lru_cache(maxsize=4 * len(self.kinds))(self._fold_keys)

    @torch.no_grad()
    def __call__(self, images: Tensor, indices: Tensor, epoch: int, batch: int) -> tuple[Tensor, ...]:
        """Make the views: images b x S x S x 3 uint8 -> for each kind b x 3 x S x S of type `dtype`, channels_last.

        Of kind "local" they are b x 3 x (S // 2) x (S // 2).
        `indices` are the b beton positions of the images (int64), `batch` is the number of the global batch in `epoch`.
        """
        if images.shape[1:] != (self.side, self.side, 3):
            raise ValueError(f"expected b x {self.side} x {self.side} x 3 images, got {tuple(images.shape)}")
        self._statistics = self._statistics.to(images.device)
        with full_float32():
            return tuple(
                getattr(self, f"_{kind}")(images, indices, epoch, batch, view).to(self.dtype)
                for view, kind in enumerate(self.kinds)
            )

    def _strong(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        keys = self._keys(epoch, view, draws.STRONG, images.device)
        order = draws.order(self.seed, epoch, view, batch)
        drawing = self._crop_min, self._flip_rate
        if kernels := self._kernels(images):
            return kernels.strong(images, indices, keys, order, self._statistics, *drawing)
        parameters = draws.strong(keys, indices, self.side, *drawing)
        return self._pixels(images).strong(images, *parameters, draws.ORDERS[order], self._statistics)

    def _local(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        whole = self._strong(images, indices, epoch, batch, view)
        down, right = draws.window(self._keys(epoch, view, draws.WINDOW, images.device), indices, self.side)
        places = torch.arange(self.side // 2, device=images.device)
        rows, columns = (down[:, None] + places)[:, :, None], (right[:, None] + places)[:, None]
        samples = torch.arange(len(images), device=images.device)[:, None, None]
        return whole.permute(0, 2, 3, 1)[samples, rows, columns].permute(0, 3, 1, 2)  # b x s x s x 3: channels_last

    def _weak(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        keys = self._keys(epoch, view, draws.WEAK, images.device)
        if kernels := self._kernels(images):
            return kernels.weak(images, indices, keys, self._statistics, self._flip_rate)
        parameters = draws.weak(keys, indices, self.side, self._flip_rate)
        return self._pixels(images).weak(images, *parameters, self._statistics)

    def _augmix(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        return self._mixed(images, indices, epoch, view, first=0)

    def _augmix_last(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        return self._mixed(images, indices, epoch, view, first=CHAINS - 1)

    def _mixed(self, images: Tensor, indices: Tensor, epoch: int, view: int, first: int) -> Tensor:
        """The AugMix view without the chains before `first`."""
        keys = self._keys(epoch, view, draws.AUGMIX, images.device)
        shown, weights, steps = draws.augmix(keys, indices, self.side, self._flip_rate)
        weights = torch.cat([weights[:1], weights[1 + first :]])
        steps = Steps(*(part[first:] for part in steps))
        return self._pixels(images).augmix(images, shown, weights, steps, self._statistics)

    def _kernels(self, images: Tensor) -> Any:
        """The module whose kernels draw the parameters and make the pixels on a GPU; None where it does not apply."""
        if not (self._compiled and images.is_cuda and self.side <= LARGEST):
            return None
        # Imported only where it is used: importing Triton takes a second.
        from dist_rmd.data.augment import views_triton

        return views_triton

    def _pixels(self, images: Tensor) -> Pixels:
        if images.is_cuda or not self._compiled:
            return pixels_torch
        # Imported only where it is used: importing numba takes half a second.
        from dist_rmd.data.augment import pixels_numba

        return pixels_numba

    def _plain(self, images: Tensor, indices: Tensor, epoch: int, batch: int, view: int) -> Tensor:
        mean, std = self._statistics.view(2, 3).repeat(1, self.side).unbind(0)  # for S x 3 values: rows vectorise well
        rows = images.view(len(images), self.side, 3 * self.side).to(torch.float32)
        return ((quotient(rows, 255) - mean) / std).view(images.shape).permute(0, 3, 1, 2)

    def _fold_keys(self, epoch: int, view: int, whats: tuple[str, ...], device: torch.device) -> Tensor:
        return keyed_rng.keys(self.seed, epoch, view, whats).to(device)
