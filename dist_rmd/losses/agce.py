"""Asymmetric generalised cross entropy (Zhou et al. 2021, https://arxiv.org/abs/2106.03110)."""

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["AGCE"]


class AGCE:
    """L = ((a + 1)^q - (a + p_y)^q) / q, p = softmax(logits).

    a: > 0; q: > 0.  0.6 and 0.6 for CIFAR in the authors' settings.
    """

    def __init__(self, a: float = 0.6, q: float = 0.6):
        for name, value in (("a", a), ("q", q)):
            if not 0 < value < math.inf:
                raise ValueError(f"agce {name} must be in (0, inf), got {value}")
        self.a, self.q = a, q

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type), labels N int64 in [0, C) -> N losses >= 0, bounded, float32 or wider."""
        logits = logits.float() if logits.itemsize < 4 else logits
        p = (-F.cross_entropy(logits, labels, reduction="none")).exp()
        return ((self.a + 1) ** self.q - (self.a + p) ** self.q) / self.q
