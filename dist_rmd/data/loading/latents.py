"""Batches of random noise for stages that generate their images: the same global batch on any number of ranks."""

from collections.abc import Generator

import torch
from torch import Tensor

from dist_rmd.data.augment import keyed_rng
from dist_rmd.data.loading.batch import Batch


class Latents:
    """Epochs of `steps` global batches of `batch_size` vectors in `dims` dimensions, of independent standard normals.

    Rank `rank` of `world` takes its slice of each batch.  Each number is a hash of (seed, step, place in the global
    batch, dimension), so that a training resumed within an epoch needs only its step.  A batch has a single view,
    b x dims of `dtype`; its labels are -1, its indices and rows the places in the global batch.
    repeat: number of consecutive batches that are the same; `steps` is a multiple of it.
    """

    def __init__(
        self,
        dims: int,
        batch_size: int,
        steps: int,
        seed: int,
        rank: int,
        world: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        repeat: int = 1,
    ):
        self._dims, self._batch_size, self._steps, self._seed, self._repeat = dims, batch_size, steps, seed, repeat
        self._rank, self._device, self._dtype = rank, device, dtype
        self._parts = [keyed_rng.shard(batch_size, each, world) for each in range(world)]

    def __len__(self) -> int:
        """Optimizer steps in an epoch."""
        return self._steps

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """The batches of epoch `epoch` from global batch `start` on."""
        part, sizes = self._parts[self._rank], tuple(len(range(self._batch_size)[each]) for each in self._parts)
        places = torch.arange(self._batch_size, device=self._device)[part]
        none = torch.full_like(places, -1)
        for number in range(start, self._steps):
            if number == start or number % self._repeat == 0:
                # Every rank makes the whole global batch: a vectorised function may round by a number's place in it.
                step = (epoch * self._steps + number) // self._repeat
                whole = normal(self._seed, step, (self._batch_size, self._dims), self._device)
                noise = whole[part].to(self._dtype)
            yield Batch((noise,), none, places, places, sizes, epoch, number)


def normal(seed: int, step: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Standard normals of this shape, float64: the normal quantile function at keyed uniform draws."""
    bits = keyed_rng.bits(seed, step, 0, "latent", torch.arange(shape[0] * shape[1], device=device))
    return keyed_rng.normal(bits).view(shape)
