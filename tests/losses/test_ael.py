import pytest
import torch

from dist_rmd.registry import lookup

AEL = lookup("losses", "ael")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p_y = logits.softmax(dim=1)[torch.arange(50), labels]


@pytest.mark.parametrize("a", [1.5, 2.5, 5.0])
def test_equals_the_authors_formula(a):
    torch.testing.assert_close(AEL(a)(logits, labels), torch.exp(-p_y / a))


def test_it_is_linear_for_large_a():
    """exp(-p/a) ~ 1 - p/a: a shifted mean absolute error."""
    torch.testing.assert_close(1e4 * (AEL(1e4)(logits, labels) - 1), -p_y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("a", [0, -1, float("nan"), float("inf")])
def test_a_outside_its_range_is_refused(a):
    with pytest.raises(ValueError, match="ael a must be in"):
        AEL(a)
