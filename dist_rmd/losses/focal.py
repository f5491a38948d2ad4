"""Focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002), over softmax as in Ma et al. 2020."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Focal"]


class Focal:
    """L = -(1 - p_y)^gamma log p_y, p = softmax(logits).  Not robust, like cross entropy.

    gamma: >= 0; 0 is cross entropy.  0.5 in the active passive losses, which this package follows; 2 in the paper.
    """

    def __init__(self, gamma: float = 0.5):
        if not 0 <= gamma < math.inf:
            raise ValueError(f"focal gamma must be in [0, inf), got {gamma}")
        self.gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type), labels N int64 in [0, C) -> N losses in [0, inf), float32 or wider."""
        logits = logits.float() if logits.itemsize < 4 else logits
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        wrong = -torch.expm1(-cross_entropy)  # 1 - p_y; at 0 a power below 1 has no finite slope
        return wrong.clamp_min(torch.finfo(wrong.dtype).tiny) ** self.gamma * cross_entropy
