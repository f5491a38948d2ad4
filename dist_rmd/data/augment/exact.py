"""Division that rounds alike on CPUs and GPUs."""

import torch
from torch import Tensor


def quotient(x: Tensor, divisor: float) -> Tensor:
    """x / divisor, correctly rounded on every device; `divisor` must be exact in the dtype of `x`.

    On GPUs torch multiplies by the reciprocal of a Python number, which may change the last bit.
    """
    return x / torch.full((), divisor, dtype=x.dtype, device=x.device)
