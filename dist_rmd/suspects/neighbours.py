"""Class probabilities of images by a vote of nearest neighbours.  Memory grows linearly with the number of images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.3  # a neighbour weighs exp(cosine / TEMPERATURE)
ROWS, COLUMNS = 1024, 2**14  # cosines in memory at a time, between ROWS and COLUMNS images: 64 MiB
GATHERED = 2**24  # numbers in memory at a time for the neighbours' classes: 64 MiB


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of each of N images.

    nearest: N x k int64, numbers of the neighbours by falling cosine.
    cosine: N x k float32, the neighbours' cosines.
    """

    nearest: Tensor
    cosine: Tensor

    @classmethod
    def of(cls, points: Tensor, k: int) -> "Neighbours":
        """Find the neighbours by the cosines of N x D points (float32); 1 <= k < N.  No image is its own neighbour."""
        unit = F.normalize(points)
        found = [_nearest(unit, start, k) for start in range(0, len(unit), ROWS)]
        nearest, cosine = (torch.cat(column) for column in zip(*found, strict=True))
        return cls(nearest, cosine)

    def shares(self, classes: Tensor) -> Tensor:
        """Weighted mean of the neighbours' rows of `classes` (N x C float32): N x C, with rows of the same sum."""
        weights = (self.cosine / TEMPERATURE).softmax(dim=1)
        size = max(1, GATHERED // (weights.shape[1] * classes.shape[1]))
        parts = zip(self.nearest.split(size), weights.split(size), strict=True)
        return torch.cat([torch.bmm(w[:, None], classes[near])[:, 0] for near, w in parts])


def _nearest(unit: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """(positions, cosines), n x k, of the unit rows nearest to rows start..start+ROWS-1."""
    rows = unit[start : start + ROWS]
    own = torch.arange(start, start + len(rows), device=unit.device)
    positions = torch.empty(len(rows), 0, dtype=torch.int64, device=unit.device)
    cosines = torch.empty(len(rows), 0, device=unit.device)
    for first in range(0, len(unit), COLUMNS):
        cosine = rows @ unit[first : first + COLUMNS].T
        here = (own >= first) & (own < first + COLUMNS)
        cosine[here, own[here] - first] = -torch.inf  # no image is its own neighbour
        values, columns = cosine.topk(min(k, cosine.shape[1]))
        cosines, order = torch.cat([cosines, values], 1).sort(dim=1, descending=True, stable=True)
        positions = torch.cat([positions, columns + first], 1).gather(1, order)[:, :k]
        cosines = cosines[:, :k]
    return positions, cosines
