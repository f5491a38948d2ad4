"""Asymmetric unhinged loss (Zhou et al. 2021, https://arxiv.org/abs/2106.03110)."""

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["AUL"]


class AUL:
    """L = ((a - p_y)^q - (a - 1)^q) / q, p = softmax(logits).

    a: > 1; q: > 0.  5.5 and 3 for CIFAR in the authors' settings.
    """

    def __init__(self, a: float = 5.5, q: float = 3.0):
        if not 1 < a < math.inf:
            raise ValueError(f"aul a must be in (1, inf), got {a}")
        if not 0 < q < math.inf:
            raise ValueError(f"aul q must be in (0, inf), got {q}")
        self.a, self.q = a, q

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type), labels N int64 in [0, C) -> N losses >= 0, bounded, float32 or wider."""
        logits = logits.float() if logits.itemsize < 4 else logits
        p = (-F.cross_entropy(logits, labels, reduction="none")).exp()
        return ((self.a - p) ** self.q - (self.a - 1) ** self.q) / self.q
