"""Batches whose images are mixed with one another (mixup), for stages that learn labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill import mixup
from dist_rmd.distributed.collectives import rank


@dataclass(frozen=True)
class Mixed:
    """What a network sees of a batch, and under which labels: of mixed images either's, each with a weight."""

    views: tuple[Tensor, ...]
    """each b x 3 x S x S"""
    own: Batch
    """the batch itself, with its labels and rows"""
    other: Batch | None = None
    """labels, rows and indices of the images that are mixed in; None where nothing is"""
    weight: float = 1.0
    """of the image itself and its label; the other's is 1 - weight"""

    def terms(self, of: Callable[[Batch], dict[str, Tensor]]) -> dict[str, Tensor]:
        """b values by name: what `of` gives under the own labels and under the others', weighted (MODUL eq. 15)."""
        own = of(self.own)
        if self.other is None:
            return own
        others = of(self.other)
        return {name: mixup.mixed(values, others[name], self.weight) for name, values in own.items()}


def mix(batch: Batch, delta: float, seed: int) -> Mixed:
    """Mix every image of the global batch with another one of it, all views alike.

    delta: the weight is drawn from Beta(delta, delta), one for the batch; 0: nothing is mixed.
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
