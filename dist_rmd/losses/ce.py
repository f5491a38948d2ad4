"""Cross entropy."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["CE"]


class CE:
    """L = -log p_y, p = softmax(logits).  Not robust: the gradient in p_y grows as 1 / p_y."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N x C (any float type), labels N int64 in [0, C) -> N losses in [0, inf), float32 or wider."""
        return F.cross_entropy(logits.float() if logits.itemsize < 4 else logits, labels, reduction="none")
