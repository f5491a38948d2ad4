"""A batch: the images and labels of one training step on one rank."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch: b samples, all tensors on the training device."""

    views: tuple[Tensor, ...]
    """each b x 3 x S x S, normalised, in channels_last memory format; or b x D, the input noise of a generator"""
    labels: Tensor
    """b int64: the given labels, which may be wrong; -1 for images without a label"""
    indices: Tensor
    """b int64: positions in the beton"""
    rows: Tensor
    """b int64: the images' numbers in 0..N-1 among the stage's N images, for stages that keep a value of each image"""
    sizes: tuple[int, ...]
    """the b of every rank, in rank order"""
    epoch: int = 0
    number: int = 0
    """number of the global batch in its epoch; with the epoch it keys the draws that all samples of the batch share"""
    right: Tensor | None = None
    """b bool: whether the given label is correct; None where nobody knows.  For measurements alone"""
    extra: "Batch | None" = None
    """a batch of other images beside this batch, where a stage asks for one (data/loading/paired.py)"""

    @property
    def share(self) -> float:
        """b * world / size of the global batch: a rank's mean times this, averaged over ranks, is the global mean."""
        return len(self.indices) * len(self.sizes) / sum(self.sizes)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors of b rows."""
        return (*self.views, self.labels, self.indices, self.rows, *(() if self.right is None else (self.right,)))
