"""Normalised focal loss (Ma et al. 2020, https://arxiv.org/abs/2006.13554)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NFL"]


class NFL:
    """L = f_y / sum_k f_k with f_k = -(1 - p_k)^gamma log p_k, p = softmax(logits).

    This is the focal loss of the label over the sum of the focal losses of all labels.

    gamma: >= 0; 0 is normalised cross entropy, 0.5 in the paper.
    """

    def __init__(self, gamma: float = 0.5):
        if not 0 <= gamma < math.inf:
            raise ValueError(f"nfl gamma must be in [0, inf), got {gamma}")
        self.gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type, C >= 2), labels N int64 in [0, C) -> N losses in [0, 1], float32 or wider."""
        log_p = F.log_softmax(logits.float() if logits.itemsize < 4 else logits, dim=1)
        wrong = -torch.expm1(log_p)  # 1 - p_k; at 0 a power below 1 has no finite slope
        focal = wrong.clamp_min(torch.finfo(wrong.dtype).tiny) ** self.gamma * log_p
        return focal.gather(1, labels[:, None])[:, 0] / focal.sum(dim=1)
