"""Generalised cross entropy (Zhang & Sabuncu 2018, https://arxiv.org/abs/1805.07836, eq. 6)."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["GCE"]


class GCE:
    """L = (1 - p_y^q) / q, p = softmax(logits): cross entropy for q -> 0, 1 - p_y for q = 1.

    q: in (0, 1]; a larger q is more robust to noise and slower to fit.  0.7 in the paper.
    k: in [0, 1); where p_y <= k the loss is truncated to the constant loss of p_y = k, with gradient zero.  0 (never
        truncated) by default; 0.5 in the paper, which starts to truncate after some tens of epochs.
    """

    def __init__(self, q: float = 0.7, k: float = 0.0):
        if not 0 < q <= 1:
            raise ValueError(f"gce q must be in (0, 1], got {q}")
        if not 0 <= k < 1:
            raise ValueError(f"gce k must be in [0, 1), got {k}")
        self.q, self.k = q, k

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type), labels N int64 in [0, C) -> N losses in [0, 1/q], float32 or wider."""
        logits = logits.float() if logits.itemsize < 4 else logits
        log_p = -F.cross_entropy(logits, labels, reduction="none")
        # 1 - p^q from log p: no cancellation at p ~ 1, and a finite gradient at p ~ 0
        loss = -torch.expm1(self.q * log_p) / self.q
        return torch.where(log_p.exp() > self.k, loss, (1 - self.k**self.q) / self.q) if self.k else loss
