"""Mixup of the images of a batch, for stages that learn labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill import mixup
from dist_rmd.distributed.collectives import rank


@dataclass(frozen=True)
class Mixed:
    """A batch as the network sees it: mixed images with two labels and a weight each, or plain images."""

    views: tuple[Tensor, ...]
    """each b x 3 x S x S"""
    own: Batch
    """the batch itself, with its labels and rows"""
    other: Batch | None = None
    """the batch of the images that are mixed in: their views, labels, rows and indices; None without mixup"""
    weight: float = 1.0
    """weight of the image itself and of its label; the other image and label have 1 - weight"""

    def terms(self, of: Callable[[Batch], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Weighted mean of the terms under the own and under the other labels, b values by name (MODUL eq. 15).

        of: batch -> terms by name, b values each.
        """
        own = of(self.own)
        if self.other is None:
            return own
        others = of(self.other)
        return {name: mixup.mixed(values, others[name], self.weight) for name, values in own.items()}


def mix(batch: Batch, delta: float, seed: int) -> Mixed:
    """Mix every image of the global batch with another image of the global batch, the same image in all views.

    delta: the batch's one weight is drawn from Beta(delta, delta); 0: no mixup.
    """
    if not delta:
        return Mixed(batch.views, batch)
    drawn = mixup.draw(seed, batch.epoch, batch.number, sum(batch.sizes), delta)

    def partners(rows: Tensor) -> Tensor:
        return mixup.partners(rows, drawn, batch.sizes, rank())

    other = replace(
        batch,
        views=tuple(partners(view) for view in batch.views),
        labels=partners(batch.labels),
        indices=partners(batch.indices),
        rows=partners(batch.rows),
        right=None,
    )
    views = tuple(mixup.mixed(*pair, drawn.weight) for pair in zip(batch.views, other.views, strict=True))
    return Mixed(views, batch, other, drawn.weight)
