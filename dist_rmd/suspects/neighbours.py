"""Class probabilities of images by a vote of nearest neighbours.  Memory grows linearly with the number of images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_rmd.evaluation._nearest import Bank
from dist_rmd.suspects.probabilities import Probabilities, blocks

TEMPERATURE = 0.3  # a neighbour weighs exp(cosine / TEMPERATURE)


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of each of N images.

    nearest: N x k int32, numbers of the neighbours by falling cosine.
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

    def shares(self, classes: Probabilities, rows: slice) -> Tensor:
        """Weighted means of the probabilities of some images' neighbours: n x C float32."""
        return classes.votes(self.nearest[rows], self._weights(rows))

    def like(self, labels: Tensor) -> Tensor:
        """Weighted shares of the neighbours that have the label of the image itself: N float32, 0..1.

        labels: N int64.
        """
        same = ((rows, labels[self.nearest[rows]] == labels[rows, None]) for rows in blocks(len(labels)))
        return torch.cat([(self._weights(rows) * alike).sum(dim=1) for rows, alike in same])

    def _weights(self, rows: slice) -> Tensor:
        return (self.cosine[rows] / TEMPERATURE).softmax(dim=1)
