"""Class probabilities of images by a Gaussian per class, fitted to images of other folds (cross-validated LDA)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_rmd.suspects.probabilities import Probabilities, blocks

SHRINKAGE = 0.1  # share of a multiple of the identity in the covariance


@dataclass(frozen=True)
class Fitted:
    """Gaussians that were fitted to all folds but one, for each fold.

    points: N x D float32.  fold: N int64, whose Gaussians judge a point.
    slopes: folds x D x C, offsets: folds x C, float64: logarithms of densities are points @ slopes + offsets, plus what
    is the same for all classes.
    """

    points: Tensor
    fold: Tensor
    slopes: Tensor
    offsets: Tensor

    def probabilities(self, rows: slice) -> Tensor:
        """Probabilities of the classes for some points: n x C float32, rows sum to 1."""
        points, fold = self.points[rows].double(), self.fold[rows]
        result = torch.empty(len(points), self.offsets.shape[1], device=points.device)
        for number, (slopes, offsets) in enumerate(zip(self.slopes, self.offsets, strict=True)):
            here = fold == number
            result[here] = (points[here] @ slopes + offsets).softmax(dim=1).float()
        return result

    def of(self, labels: Tensor) -> Tensor:
        """The probability of each point's label in `labels` (N int64): N float32."""
        parts = ((self.probabilities(rows), labels[rows]) for rows in blocks(len(labels)))
        return torch.cat([some.gather(1, own[:, None])[:, 0] for some, own in parts])


class Gaussians:
    """Gaussians for classes of N x D points (float32), with one covariance for all classes.

    fold: N int64 in 0..folds-1, the fold of each point.  Gaussians fitted to the other folds judge a point.
    """

    def __init__(self, points: Tensor, fold: Tensor, folds: int):
        self.points, self.fold, self.folds = points, fold, folds
        self.squares, _ = self._sums(((rows, points[rows]) for rows in blocks(len(points))), points.shape[1])

    def _sums(self, left: Iterable[tuple[slice, Tensor]], width: int) -> tuple[Tensor, Tensor]:
        """Sums over each fold of the outer products of `left` and the points, and of `left`, in float64.

        left: N x M numbers in blocks of rows, M is `width`.  Returns folds x M x D and folds x M.
        """
        shape = (self.folds, width, self.points.shape[1])
        products = torch.zeros(shape, dtype=torch.float64, device=self.points.device)
        sums = products.new_zeros(shape[:2])
        for rows, numbers in left:
            fold, points = self.fold[rows], self.points[rows]
            for number in range(self.folds):
                here = fold == number
                some = numbers[here].double()
                products[number] += some.T @ points[here].double()
                sums[number] += some.sum(dim=0)
        return products, sums

    def fitted(self, classes: Probabilities) -> Fitted:
        """Fit the Gaussians of the C classes.  classes: the weight of each point in the Gaussian of each class."""
        sums, of_fold = self._sums(classes.blocks(), len(classes.usual))
        slopes, offsets = [], []
        for number in range(self.folds):
            others = torch.arange(self.folds, device=sums.device) != number
            weight = of_fold[others].sum(0) + 1e-9  # C; a class may have no point in the other folds
            mean = sums[others].sum(0) / weight[:, None]
            covariance = (self.squares[others].sum(0) - (mean * weight[:, None]).T @ mean) / weight.sum()
            width = covariance.trace() / len(covariance) + 1e-12  # the others may all be one point
            covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * width * torch.eye(len(covariance)).to(covariance)
            slopes.append(torch.cholesky_solve(mean.T, torch.linalg.cholesky(covariance)))  # D x C
            offsets.append((weight / weight.sum()).log() - (mean.T * slopes[-1]).sum(0) / 2)
        return Fitted(self.points, self.fold, torch.stack(slopes), torch.stack(offsets))
