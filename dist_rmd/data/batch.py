"""What a stage sees of the data."""

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch: b samples, all tensors on the training device."""

    views: tuple[Tensor, ...]
    """each b x 3 x S x S float32, normalised, in channels_last memory format"""
    labels: Tensor
    """b int64: the given labels, which may be wrong"""
    indices: Tensor
    """b int64: positions in the beton"""
    sizes: tuple[int, ...]
    """the b of every rank, in rank order"""
    epoch: int = 0
    number: int = 0
    """which global batch of its epoch this is part of: what all its samples share is drawn from the two"""
    open_set: "Batch | None" = None
    """images of none of the classes that come along, where a stage asks for them"""

    @property
    def share(self) -> float:
        """b * world / size of the global batch: a rank's mean times this, averaged over ranks, is the global mean."""
        return len(self.indices) * len(self.sizes) / sum(self.sizes)

    def first(self, samples: int) -> "Batch":
        """The same with at most so many samples of every rank."""
        return replace(
            self,
            views=tuple(view[:samples] for view in self.views),
            labels=self.labels[:samples],
            indices=self.indices[:samples],
            sizes=tuple(min(size, samples) for size in self.sizes),
            open_set=self.open_set and self.open_set.first(samples),
        )
