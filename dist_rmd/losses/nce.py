"""Normalised cross entropy (Ma et al. 2020, https://arxiv.org/abs/2006.13554)."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["NCE"]


class NCE:
    """L = log p_y / sum_k log p_k, p = softmax(logits): cross entropy over the sum of cross entropies of all labels.

    NCE is an active loss: robust, but underfitting by itself; use it in a sum with a passive loss (mae, rce, agce, aul,
    ael).
    """

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type, C >= 2), labels N int64 in [0, C) -> N losses in [0, 1], float32 or wider."""
        log_p = F.log_softmax(logits.float() if logits.itemsize < 4 else logits, dim=1)
        return log_p.gather(1, labels[:, None])[:, 0] / log_p.sum(dim=1)
