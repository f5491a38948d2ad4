"""Class probabilities of images by a vote of nearest neighbours.  Memory grows linearly with the number of images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_rmd.evaluation._nearest import Bank

TEMPERATURE = 0.3  # a neighbour weighs exp(cosine / TEMPERATURE)
GATHERED = 2**24  # numbers in memory at a time for the neighbours' classes: 64 MiB


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of each of N images.

    nearest: N x k int64, numbers of the neighbours by falling cosine.
    cosine: N x k float32, the neighbours' cosines.
    compared: with about how many images each was compared, at most N.
    """

    nearest: Tensor
    cosine: Tensor
    compared: int

    @classmethod
    def of(cls, points: Tensor, k: int) -> "Neighbours":
        """Find the neighbours by the cosines of N x D points (float32); 1 <= k < N.  No image is its own neighbour."""
        bank = Bank(F.normalize(points))
        return cls(*bank.of_own(k), bank.compared)

    def shares(self, classes: Tensor) -> Tensor:
        """Weighted mean of the neighbours' rows of `classes` (N x C float32): N x C, with rows of the same sum."""
        weights = (self.cosine / TEMPERATURE).softmax(dim=1)
        size = max(1, GATHERED // (weights.shape[1] * classes.shape[1]))
        parts = zip(self.nearest.split(size), weights.split(size), strict=True)
        return torch.cat([torch.bmm(w[:, None], classes[near])[:, 0] for near, w in parts])
