import pytest
import torch

from dist_rmd.registry import lookup

AGCE = lookup("losses", "agce")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p_y = logits.softmax(dim=1)[torch.arange(50), labels]


@pytest.mark.parametrize(("a", "q"), [(0.6, 0.6), (6.0, 1.5), (1.8, 3.0)])
def test_equals_the_authors_formula(a, q):
    expected = ((a + 1) ** q - (a + p_y) ** q) / q
    torch.testing.assert_close(AGCE(a, q)(logits, labels), expected)


def test_limits():
    """Generalised cross entropy for a -> 0, and half the mean absolute error for q = 1."""
    torch.testing.assert_close(AGCE(1e-12, 0.7)(logits, labels), lookup("losses", "gce")(0.7)(logits, labels))
    torch.testing.assert_close(AGCE(3.0, 1.0)(logits, labels), 1 - p_y)


@pytest.mark.parametrize(("a", "q"), [(0, 1), (-1, 1), (1, 0), (1, float("inf")), (float("nan"), 1)])
def test_values_outside_their_range_are_refused(a, q):
    with pytest.raises(ValueError, match=r"agce [aq] must be in"):
        AGCE(a, q)
