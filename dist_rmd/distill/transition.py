"""Which labels a class is given, from what a network has learned of noisy ones (Patrini et al. 2017, sec. 4.2)."""

import math

import torch
from torch import Tensor


def anchor_transition(posteriors: Tensor, drop: float = 0.0) -> Tensor:
    """T_ij, the probability that an image of class i is labelled j: the posterior of an image that is surely of i.

    posteriors: N x C, a network's probabilities of the given labels.  drop: in [0, 1); so many of the images most
    probably labelled i, outliers, are passed over (0.03 in the code of T-Revision for CIFAR-10; 0: none).
    -> C x C float64, whose rows sum to 1 as those of `posteriors` do.
    Raises ValueError for other values.
    """
    if not 0 <= drop < 1 or not len(posteriors):
        raise ValueError(f"no image of each class can be chosen among {len(posteriors)} images without {drop} of them")
    posteriors = posteriors.double()
    # The place of the first image that is kept, from the top.
    place = math.floor(drop * (len(posteriors) - 1) + 1e-9) + (drop > 0)
    order = posteriors.argsort(dim=0, descending=True, stable=True)  # N x C
    return posteriors[order[min(place, len(posteriors) - 1)]]


def importance(logits: Tensor, labels: Tensor, transition: Tensor, most: float) -> Tensor:
    """w = p_y / (T^T p)_y: how much rarer a label is among the correct ones than among the given ones -> b values.

    logits: b x C, of a network that predicts correct labels.  labels: b given ones.  transition: T, C x C.
    Clipped to 0..most, without gradient.
    """
    p = logits.detach().to(torch.promote_types(logits.dtype, transition.dtype)).softmax(dim=1)
    noisy = p @ transition.to(p.dtype)
    rows = torch.arange(len(labels), device=labels.device)
    return (p[rows, labels] / noisy[rows, labels]).nan_to_num(nan=0.0).clamp(0, most)
