"""Details of a classifier's accuracy: by class, as a confusion matrix, and how well its confidence is calibrated."""

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
"""bins of the confidence, of equal width, as in Guo et al. 2017 (https://arxiv.org/abs/1706.04599)"""


@dataclass(frozen=True)
class Details:
    """The details of a classifier's predictions for N images and C classes."""

    confusion: NDArray[np.int64]
    """C x C: number of images by correct class (row) and predicted class (column)"""
    top5: float | None
    """percent of the images whose class is among the five most probable classes; None for five classes or fewer"""
    ece: float
    """percent: expected calibration error, the mean of |accuracy - confidence| over the bins, weighted by images"""
    confidence: NDArray[np.float64]
    """N: the probability of each image's predicted class"""
    right: NDArray[np.bool_]
    """N: whether the predicted class is the correct class"""

    @property
    def images(self) -> NDArray[np.int64]:
        """Number of images of each class: C int64."""
        return self.confusion.sum(axis=1)

    @property
    def by_class(self) -> list[float | None]:
        """Accuracy of each class in percent, C values; None for a class without images."""
        right = self.confusion.diagonal()
        return [100 * hit / count if count else None for hit, count in zip(right, self.images, strict=True)]

    def mistaken_for(self, label: int) -> int | None:
        """The most frequent wrong prediction for images of class `label`; None where no prediction is wrong."""
        others = self.confusion[label].copy()
        others[label] = 0
        return int(others.argmax()) if others.any() else None


@torch.inference_mode()
def details(net: nn.Module, splits: Splits) -> Details:
    """The details of a classifier's predictions for the test images.

    net: images -> (logits N x C, ...), in evaluation mode.  Every rank must call this function, and gets the same.
    """

    class Probabilities(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return net(images)[0].float().softmax(dim=1)

    probabilities, labels, _ = extract_all(Probabilities(), splits.test())
    return of(probabilities.double().cpu().numpy(), labels.cpu().numpy(), splits.classes)


def of(probabilities: NDArray[np.float64], labels: NDArray[np.int64], classes: int) -> Details:
    """The details of predictions given as N x C probabilities, against N correct labels."""
    known = range(classes)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = predicted == labels
    top5 = 100 * float(top_k_accuracy_score(labels, probabilities, k=5, labels=known)) if classes > 5 else None
    return Details(
        confusion_matrix(labels, predicted, labels=known), top5, 100 * calibration_error(confidence, right),
        confidence, right,
    )  # fmt: skip


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """The expected calibration error, 0..1: sum over bins of (images of the bin / N) |accuracy - mean confidence|."""
    accuracy, mean = calibration_curve(right, confidence, n_bins=BINS)
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence))  # calibration_curve's bins
    return float((counts[counts > 0] * np.abs(accuracy - mean)).sum() / len(confidence))
