"""Estimates the transition matrix of label noise from a network's posteriors (Patrini et al. 2017, sec. 4.2)."""

import math

import torch
from torch import Tensor


def anchor_transition(posteriors: Tensor, drop: float = 0.0) -> Tensor:
    """Estimate T_ij, the probability that an image of class i has the given label j: C x C float64.

    Row i is the posterior of the anchor of class i, the image most probably labelled i.  Rows sum to 1 as those of
    `posteriors` do.

    posteriors: N x C, a network's probabilities of the given labels.
    drop: in [0, 1); this share of the images, those most probably labelled i, are outliers and passed over in the
        choice of an anchor (0.03 in the code of T-Revision for CIFAR-10; 0 passes over none).
    Raises ValueError without images, and for a `drop` outside its range.
    """
    if not 0 <= drop < 1 or not len(posteriors):
        raise ValueError(f"no image of each class can be chosen among {len(posteriors)} images without {drop} of them")
    posteriors = posteriors.double()
    # The place of the anchor among the images, by descending posterior.
    place = math.floor(drop * (len(posteriors) - 1) + 1e-9) + (drop > 0)
    order = posteriors.argsort(dim=0, descending=True, stable=True)  # N x C
    return posteriors[order[min(place, len(posteriors) - 1)]]


def importance(logits: Tensor, labels: Tensor, transition: Tensor, most: float) -> Tensor:
    """Importance weights w = p_y / (T^T p)_y, the probability of label y as correct over that as given -> b values.

    logits: b x C, of a network that predicts correct labels, p = softmax(logits).  labels: y, b given labels.
    transition: T, C x C.  The weights are clipped to 0..most and have no gradient.
    """
    p = logits.detach().to(torch.promote_types(logits.dtype, transition.dtype)).softmax(dim=1)
    noisy = p @ transition.to(p.dtype)
    rows = torch.arange(len(labels), device=labels.device)
    return (p[rows, labels] / noisy[rows, labels]).nan_to_num(nan=0.0).clamp(0, most)
