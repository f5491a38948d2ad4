import pytest
import torch

from dist_rmd.registry import lookup

GCE = lookup("losses", "gce")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p_y = logits.softmax(dim=1)[torch.arange(50), labels]


@pytest.mark.parametrize("q", [0.1, 0.5, 0.7, 1.0])
def test_equals_the_authors_formula(q):
    torch.testing.assert_close(GCE(q)(logits, labels), (1 - p_y**q) / q, rtol=1e-10, atol=1e-12)


def test_limits_are_cross_entropy_and_one_minus_p():
    torch.testing.assert_close(GCE(1e-9)(logits, labels), -p_y.log(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(GCE(1.0)(logits, labels), 1 - p_y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_finite_at_extreme_logits_in_half_precision(dtype, q):
    extreme = torch.tensor([[6e4, -6e4], [-6e4, 6e4]], dtype=dtype, requires_grad=True)
    values = GCE(q)(extreme, torch.tensor([0, 0]))
    values.sum().backward()
    assert values.isfinite().all()
    assert extreme.grad.isfinite().all()
    assert values.max() <= 1 / q + 1e-6


def test_truncated_below_k():
    values, plain = GCE(0.7, k=0.5)(logits, labels), GCE(0.7)(logits, labels)
    assert (p_y <= 0.5).any()
    assert (p_y > 0.5).any()
    torch.testing.assert_close(values, torch.where(p_y > 0.5, plain, (1 - 0.5**0.7) / 0.7))
    moving = logits.clone().requires_grad_()
    GCE(0.7, k=0.5)(moving, labels).sum().backward()
    assert not moving.grad[p_y <= 0.5].any()
    assert moving.grad[p_y > 0.5].any(dim=1).all()


@pytest.mark.parametrize("k", [-0.1, 1.0, float("nan")])
def test_k_outside_its_range_is_refused(k):
    with pytest.raises(ValueError, match="k must be in"):
        GCE(0.7, k)


def test_gradient():
    few = logits[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: GCE()(x, labels[:5]), few)


@pytest.mark.parametrize("q", [0.0, -1.0, 1.5, float("nan")])
def test_q_outside_its_range_is_refused(q):
    with pytest.raises(ValueError, match="q must be in"):
        GCE(q)
