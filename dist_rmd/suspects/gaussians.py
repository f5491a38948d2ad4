"""Class probabilities of images by a Gaussian per class, fitted to images of other folds (cross-validated LDA)."""

import torch
from torch import Tensor

SHRINKAGE = 0.1  # share of a multiple of the identity in the covariance
CHUNK = 4096  # images whose points are in memory in double precision at a time


class Gaussians:
    """Gaussians for classes of N x D points (float32), with one covariance for all classes.

    fold: N int64 in 0..folds-1, the fold of each point.  Gaussians fitted to the other folds judge a point.
    """

    def __init__(self, points: Tensor, fold: Tensor, folds: int):
        self.points, self.fold, self.folds = points, fold, folds
        self.squares = self._sums(points)  # folds x D x D

    def _sums(self, left: Tensor) -> Tensor:
        """Sum over each fold of the outer products of `left` (N x M) and the points: folds x M x D, float64."""
        shape = (self.folds, left.shape[1], self.points.shape[1])
        sums = torch.zeros(shape, dtype=torch.float64, device=left.device)
        parts = zip(left.split(CHUNK), self.points.split(CHUNK), self.fold.split(CHUNK), strict=True)
        for a, b, fold in parts:
            for number in range(self.folds):
                here = fold == number
                sums[number] += a[here].double().T @ b[here].double()
        return sums

    def probabilities(self, classes: Tensor) -> Tensor:
        """Probabilities of the classes for each point: N x C float32, rows sum to 1.

        classes: N x C float32, the weight of each point in the Gaussian of each class.
        """
        sums = self._sums(classes)  # folds x C x D
        of_fold = torch.zeros(self.folds, classes.shape[1], dtype=torch.float64, device=classes.device)
        of_fold.index_add_(0, self.fold, classes.double())
        result = torch.empty_like(classes)
        for number in range(self.folds):
            others = torch.arange(self.folds, device=classes.device) != number
            weight = of_fold[others].sum(0) + 1e-9  # C; a class may have no point in the other folds
            mean = sums[others].sum(0) / weight[:, None]
            covariance = (self.squares[others].sum(0) - (mean * weight[:, None]).T @ mean) / weight.sum()
            width = covariance.trace() / len(covariance) + 1e-12  # the others may all be one point
            covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * width * torch.eye(len(covariance)).to(covariance)
            slopes = torch.cholesky_solve(mean.T, torch.linalg.cholesky(covariance))  # D x C
            offsets = (weight / weight.sum()).log() - (mean.T * slopes).sum(0) / 2
            for rows in (self.fold == number).nonzero()[:, 0].split(CHUNK):
                scores = self.points[rows].double() @ slopes + offsets
                result[rows] = scores.softmax(dim=1).float()
        return result
