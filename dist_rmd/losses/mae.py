"""Mean absolute error between probabilities and the one-hot label (Ghosh et al. 2017, https://arxiv.org/abs/1712.09482)."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MAE"]


class MAE:
    """L = sum_k |p_k - [k = y]| = 2 (1 - p_y), p = softmax(logits).

    Robust to symmetric noise, and slow to fit many classes.  Ma et al. 2020 define the loss as 1 - p_y, half of L.
    """

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type), labels N int64 in [0, C) -> N losses in [0, 2], float32 or wider."""
        logits = logits.float() if logits.itemsize < 4 else logits
        return -2 * torch.expm1(-F.cross_entropy(logits, labels, reduction="none"))
