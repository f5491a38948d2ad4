"""How a classifier is right and wrong: by class, by what it takes for what, and whether it knows how sure to be."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from torch import Tensor, nn

from dist_rmd.evaluation._features import extract_all
from dist_rmd.evaluation._splits import Splits

BINS = 15
"""of the confidence, of equal width: as Guo et al. 2017 (https://arxiv.org/abs/1706.04599) and most papers since"""


@dataclass(frozen=True)
class Details:
    """Of N images under C classes."""

    confusion: NDArray[np.int64]
    """C x C: images of the class of the row that are taken for the class of the column"""
    top5: float | None
    """percent of the images whose class is among the five most probable ones; None for five classes or fewer"""
    ece: float
    """percent: expected calibration error, the mean of |accuracy - confidence| over the bins, weighted by images"""
    confidence: NDArray[np.float64]
    """N: the probability of the class that each image is taken for"""
    right: NDArray[np.bool_]
    """N: it is the correct one"""

    @property
    def images(self) -> NDArray[np.int64]:
        """C: of each class."""
        return self.confusion.sum(axis=1)

    @property
    def by_class(self) -> list[float | None]:
        """C: percent of a class's images that are taken for it; None where it has no image."""
        right = self.confusion.diagonal()
        return [100 * hit / count if count else None for hit, count in zip(right, self.images, strict=True)]

    def mistaken_for(self, label: int) -> int | None:
        """The other class that images of class `label` are most often taken for; None where they never are."""
        others = self.confusion[label].copy()
        others[label] = 0
        return int(others.argmax()) if others.any() else None


@torch.inference_mode()
def details(net: nn.Module, splits: Splits) -> Details:
    """Those of a classifier, images -> (logits N x C, ...), in evaluation mode, on the test images.

    Every rank must call it, and gets the same.
    """

    class Probabilities(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return net(images)[0].float().softmax(dim=1)

    probabilities, labels, _ = extract_all(Probabilities(), splits.test())
    return of(probabilities.double().cpu().numpy(), labels.cpu().numpy(), splits.classes)


def of(probabilities: NDArray[np.float64], labels: NDArray[np.int64], classes: int) -> Details:
    """Those of N x C probabilities and N labels."""
    known = range(classes)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = predicted == labels
    top5 = 100 * float(top_k_accuracy_score(labels, probabilities, k=5, labels=known)) if classes > 5 else None
    return Details(
        confusion_matrix(labels, predicted, labels=known), top5, 100 * calibration_error(confidence, right),
        confidence, right,
    )  # fmt: skip


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """0..1: sum over bins of (images of the bin / N) |share of right ones - mean confidence|."""
    accuracy, mean = calibration_curve(right, confidence, n_bins=BINS)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence))  # bins as they are there
    return float((counts[counts > 0] * np.abs(accuracy - mean)).sum() / len(confidence))
