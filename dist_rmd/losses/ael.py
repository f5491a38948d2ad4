"""Asymmetric exponential loss (Zhou et al. 2021, https://arxiv.org/abs/2106.03110)."""

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["AEL"]


class AEL:
    """L = exp(-p_y / a), p = softmax(logits).  The least value of the loss is exp(-1 / a), not 0.

    a: > 0.  2.5 for CIFAR in the authors' settings.
    """

    def __init__(self, a: float = 2.5):
        if not 0 < a < math.inf:
            raise ValueError(f"ael a must be in (0, inf), got {a}")
        self.a = a

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type), labels N int64 in [0, C) -> N losses in [exp(-1/a), 1], float32 or wider."""
        logits = logits.float() if logits.itemsize < 4 else logits
        p = (-F.cross_entropy(logits, labels, reduction="none")).exp()
        return (-p / self.a).exp()
