"""Symmetric cross entropy (Wang et al. 2019, https://arxiv.org/abs/1908.06112)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SCE"]

LOG_ZERO = math.log(1e-4)  # the paper's A, in place of log 0 for the zeros of the one-hot label


class SCE:
    """L = a CE + b RCE = -a log p_y - b A (1 - p_y), A = log 1e-4, p = softmax(logits).

    a, b: >= 0.  0.1 and 1 for CIFAR-10 (the defaults), 6 and 0.1 for CIFAR-100 in the authors' settings.
    """

    def __init__(self, a: float = 0.1, b: float = 1.0):
        for name, value in (("a", a), ("b", b)):
            if not 0 <= value < math.inf:
                raise ValueError(f"sce {name} must be in [0, inf), got {value}")
        self.a, self.b = a, b

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type), labels N int64 in [0, C) -> N losses in [0, inf), float32 or wider."""
        logits = logits.float() if logits.itemsize < 4 else logits
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        return self.a * cross_entropy + self.b * LOG_ZERO * torch.expm1(-cross_entropy)
