import pytest
import torch

from dist_rmd.registry import lookup

AUL = lookup("losses", "aul")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p_y = logits.softmax(dim=1)[torch.arange(50), labels]


@pytest.mark.parametrize(("a", "q"), [(5.5, 3.0), (6.3, 1.5), (3.0, 0.1)])
def test_equals_the_authors_formula(a, q):
    torch.testing.assert_close(AUL(a, q)(logits, labels), ((a - p_y) ** q - (a - 1) ** q) / q)


def test_it_is_half_the_mean_absolute_error_for_q_1():
    torch.testing.assert_close(AUL(2.0, 1.0)(logits, labels), 1 - p_y)


@pytest.mark.parametrize(("a", "q"), [(1, 1), (0.5, 1), (2, 0), (2, -1), (float("nan"), 1), (2, float("inf"))])
def test_values_outside_their_range_are_refused(a, q):
    with pytest.raises(ValueError, match=r"aul [aq] must be in"):
        AUL(a, q)
