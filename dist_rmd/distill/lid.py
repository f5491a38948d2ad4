"""Local intrinsic dimensionality (Amsaleg et al. 2015; Ma et al. 2018, https://arxiv.org/abs/1806.02612)."""

import numpy as np
import torch
from torch import Tensor

from dist_rmd.data.augment import keyed_rng


def lid(features: Tensor, k: int = 20) -> Tensor:
    """The dimensionality around each row, by maximum likelihood: -k / sum_{j <= k} log(d_j / d_k).

    d_j is the distance to the j-th nearest of the other rows.  features: n x D of any float type, n > k.
    Returns n float64 >= 0; 0 where the k nearest rows all equal the row itself.  Raises ValueError for n <= k.
    """
    if not 0 < k < len(features):
        raise ValueError(f"{k} neighbours of each of {len(features)} rows: there must be more rows than neighbours")
    rows = features.double()
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sort(dim=1).values
    near = distances[:, 1 : k + 1]  # without the row itself
    tiny = torch.finfo(near.dtype).tiny
    ratios = near.clamp_min(tiny) / near[:, -1:].clamp_min(tiny)
    estimates = -k / ratios.log().sum(dim=1).clamp_max(-torch.finfo(near.dtype).eps)
    return torch.where(near[:, -1] > 0, estimates, 0.0)


def chosen(images: int, count: int, seed: int, epoch: int) -> np.ndarray:
    """Draw `count` different places among `images` (all if `images` are fewer), anew for every epoch: int64."""
    words = np.random.Philox(key=keyed_rng.key(seed, epoch, 0, "lid images")).random_raw(images)
    return np.argsort(words, kind="stable")[:count]
