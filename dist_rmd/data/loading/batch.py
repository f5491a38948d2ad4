"""A batch: the images and labels that a stage sees in one step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch: b samples, all tensors on the training device."""

    views: tuple[Tensor, ...]
    """each b x 3 x S x S, normalised, in channels_last memory format; or b x D, noise that a stage makes images of"""
    labels: Tensor
    """b int64: the given labels, which may be wrong; -1 where there are none"""
    indices: Tensor
    """b int64: positions in the beton"""
    rows: Tensor
    """b int64: the images' numbers among all N that the stage works on, in 0..N-1, for memory of every image"""
    sizes: tuple[int, ...]
    """the b of every rank, in rank order"""
    epoch: int = 0
    number: int = 0
    """which global batch of its epoch this is part of: what all its samples share is drawn from the two"""
    right: Tensor | None = None
    """b bool: the given label is the correct one; None where nobody knows the correct ones.  For measurements alone"""
    extra: "Batch | None" = None
    """other images that come along, where a stage asks for them (data/loading/paired.py)"""

    @property
    def share(self) -> float:
        """b * world / size of the global batch: a rank's mean times this, averaged over ranks, is the global mean."""
        return len(self.indices) * len(self.sizes) / sum(self.sizes)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of b rows."""
        return (*self.views, self.labels, self.indices, self.rows, *(() if self.right is None else (self.right,)))
