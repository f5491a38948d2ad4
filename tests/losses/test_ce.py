import pytest
import torch

from dist_rmd.registry import lookup

ce = lookup("losses", "ce")()


def test_equals_the_naive_formula():
    logits, labels = torch.randn(50, 7, dtype=torch.float64) * 3, torch.arange(50) % 7
    p = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    torch.testing.assert_close(ce(logits, labels), -p[torch.arange(50), labels].log(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_finite_at_extreme_logits_in_half_precision(dtype):
    logits = torch.tensor([[6e4, -6e4], [-6e4, 6e4]], dtype=dtype, requires_grad=True)
    values = ce(logits, torch.tensor([0, 0]))
    values.sum().backward()
    assert values.isfinite().all()
    assert logits.grad.isfinite().all()
    assert values.dtype == torch.float32


def test_gradient():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ce(x, torch.tensor([0, 1, 2, 3, 0])), logits)
