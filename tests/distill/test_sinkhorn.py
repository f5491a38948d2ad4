import numpy as np
import ot
import pytest
import torch

from dist_rmd.distill.sinkhorn import column_error, missed_mass, transport_plan

UNTIL = {"method": "sinkhorn_log", "numItermax": 20000, "stopThr": 1e-14}  # of ot.sinkhorn: converged


def problem(*shape, seed=0):
    """Two distributions and the cost between them, all float64: ... x m, ... x n, m x n."""
    draws = torch.Generator().manual_seed(seed)
    *batch, m, n = shape
    a, b = (torch.rand(*batch, size, generator=draws, dtype=torch.float64) + 0.01 for size in (m, n))
    cost = torch.rand(m, n, generator=draws, dtype=torch.float64)
    return a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), cost


def naive(a, b, cost, reg, iterations):
    """Cuturi's two updates in numpy float64, columns first."""
    kernel = np.exp(-cost / reg)
    u = np.ones(len(a))
    for _ in range(iterations):
        v = b / (kernel.T @ u)
        u = a / (kernel @ v)
    return u[:, None] * kernel * v


@pytest.mark.parametrize(("shape", "reg"), [((5, 7), 0.05), ((7, 5), 1.0), ((6, 6), 0.2)])
def test_is_the_plan_of_pot_once_converged(shape, reg):
    a, b, cost = problem(*shape)
    expected = ot.sinkhorn(a.numpy(), b.numpy(), cost.numpy(), reg, **UNTIL)
    found = transport_plan(a.log(), b.log(), cost, reg, 5000)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-12)
    assert column_error(found, b.log()).max() < 1e-8


def test_costs_too_large_for_exponentials_are_none_in_the_log_domain():
    a, b, cost = problem(5, 6)
    expected = ot.sinkhorn(a.numpy(), b.numpy(), 1e4 * cost.numpy(), 500.0, **UNTIL)
    np.testing.assert_allclose(transport_plan(a.log(), b.log(), 1e4 * cost, 500.0, 3000).numpy(), expected, rtol=1e-6)
    hard = transport_plan(a.log().float(), b.log().float(), 1e4 * cost.float(), 1.0, 50)
    assert hard.isfinite().all()
    torch.testing.assert_close(hard.sum(1), a.float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_is_so_many_updates_of_cuturi(iterations):
    a, b, cost = problem(4, 3, 3)
    found = transport_plan(a.log(), b.log(), cost, 0.3, iterations)
    for plan, one, other in zip(found, a, b, strict=True):
        expected = naive(one.numpy(), other.numpy(), cost.numpy(), 0.3, iterations)
        np.testing.assert_allclose(plan.numpy(), expected, rtol=1e-10)
    torch.testing.assert_close(found.sum(-1), a)


def test_what_has_not_converged_misses_columns():
    a, b, cost = problem(6, 6)
    errors = [column_error(transport_plan(a.log(), b.log(), cost, 0.02, n), b.log()).mean() for n in (1, 10, 1000)]
    assert errors[0] > 0.05
    assert errors[0] > errors[1] > errors[2]
    plan = transport_plan(a.log(), b.log(), cost, 0.02, 1)
    assert missed_mass(plan, b.log()).item() == pytest.approx(np.abs(plan.numpy().sum(0) - b.numpy()).sum())


def test_finite_differences():
    a, b, cost = problem(2, 3, 4)
    logits = a.log().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: transport_plan(z.log_softmax(1), b.log(), cost, 0.1, 5), logits, atol=1e-7
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    a, b, cost = problem(4, 4)
    found = transport_plan(a.log().to(dtype), b.log().to(dtype), cost.to(dtype), 0.05, 20)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), a.float(), rtol=5e-2, atol=1e-3)
