from math import exp, log

import numpy as np
import pytest
import torch

from dist_rmd.distill.nt_xent import nt_xent

Z = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def naive(z1, z2, temperature):
    """Equation 1 of the paper, pair by pair: rows 2k - 1 and 2k are the two views of image k."""
    z = [row for pair in zip(z1.numpy(), z2.numpy(), strict=True) for row in pair]
    s = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in z] for a in z]

    def loss(i, j):
        return -log(exp(s[i][j] / temperature) / sum(exp(s[i][k] / temperature) for k in range(len(z)) if k != i))

    return [(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k)) / 2 for k in range(len(z1))]


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_is_the_papers_equation(temperature):
    np.testing.assert_allclose(nt_xent(*Z, [5], temperature), naive(*Z, temperature), rtol=1e-12)
    half = nt_xent(*Z.bfloat16(), [5], temperature)
    assert half.dtype == torch.float32
    np.testing.assert_allclose(half, naive(*Z.bfloat16().double(), temperature), rtol=1e-5)


def test_finite_differences():
    inputs = [rows.clone().requires_grad_() for rows in Z]
    assert torch.autograd.gradcheck(lambda z1, z2: nt_xent(z1, z2, [5], 0.5), inputs)


def test_equal_projections_leave_a_guess_among_all_others():
    rows = torch.ones(8, 3)
    torch.testing.assert_close(nt_xent(rows, rows, [8], 0.1), torch.full((8,), log(15)))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="temperature of NT-Xent must be positive, got 0"):
        nt_xent(*Z, [5], 0)
    with pytest.raises(ValueError, match=r"rows x width of one size, got \(5, 4\) and \(4, 4\)"):
        nt_xent(Z[0], Z[1, :4], [5], 0.5)
