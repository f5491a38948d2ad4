"""Optimal transport with an entropy term (Cuturi 2013, https://arxiv.org/abs/1306.0895), computed in the log domain."""

import torch
from torch import Tensor


def transport_plan(log_a: Tensor, log_b: Tensor, cost: Tensor, reg: float | Tensor, iterations: int) -> Tensor:
    """The transport plan P >= 0 by Sinkhorn's iterations: min <P, cost> - reg H(P) with row sums a and column sums b.

    log_a, log_b: ... x m and ... x n, logarithms of two distributions.  cost: m x n, or ... x m x n.
    reg: > 0, a number or 0-d.  iterations: number of pairs of updates, >= 1.
    Returns ... x m x n, differentiable through the iterations.  Rows sum to a after any number of iterations, columns
    to b once the iterations have converged (`column_error`).  The computation is in float32, or float64 if an input is.
    """
    log_a, log_b, cost = (x.float() if x.itemsize < 4 else x for x in (log_a, log_b, cost))
    scores = -cost / reg
    f = torch.zeros_like(log_a)
    g = log_b
    for _ in range(iterations):
        g = log_b - (f[..., :, None] + scores).logsumexp(dim=-2)
        f = log_a - (scores + g[..., None, :]).logsumexp(dim=-1)
    return (f[..., :, None] + scores + g[..., None, :]).exp()


def column_error(plan: Tensor, log_b: Tensor) -> Tensor:
    """The relative error of each column sum of a plan m x n: |sum_i P_ij - b_j| / b_j -> n values."""
    b = log_b.exp()
    return (plan.sum(dim=-2) - b).abs() / b


def missed_mass(plan: Tensor, log_b: Tensor) -> Tensor:
    """The mass by which all column sums of a plan ... x m x n miss b: sum_j |sum_i P_ij - b_j| -> ... values, 0..2."""
    return (plan.sum(dim=-2) - log_b.exp()).abs().sum(dim=-1)
