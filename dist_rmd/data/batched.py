"""The pixels of views in torch, one operation of the whole batch after another: for GPUs, and plain code for CPUs."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dist_rmd.data import colour, geometry
from dist_rmd.errors import ConfigError


class Batched:
    """See views.Pixels.  With `compiled` torch.compile makes one graph for every operation at its first call."""

    def __init__(self, compiled: bool):
        self._run: Callable = _compiled if compiled else _eager

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
        with _full_float32():
            pixels = self._run(_crop, images, *box, flip)
        for i in order:
            pixels = self._run(colour.JITTER[i], pixels, factors[i])
        return self._run(_finish, pixels, gray, statistics=statistics)

    def weak(self, images: Tensor, down: Tensor, right: Tensor, flip: Tensor, statistics: Tensor) -> Tensor:
        with _full_float32():
            return self._run(_shift, images, down, right, flip, statistics=statistics)


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
