import pytest
import torch

from dist_rmd.registry import lookup

TCE = lookup("losses", "tce")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p_y = logits.softmax(dim=1)[torch.arange(50), labels]


@pytest.mark.parametrize("t", [1, 2, 6])
def test_equals_the_authors_formula(t):
    torch.testing.assert_close(TCE(t)(logits, labels), sum((1 - p_y) ** i / i for i in range(1, t + 1)))


def test_limits_are_half_the_mean_absolute_error_and_cross_entropy():
    torch.testing.assert_close(TCE(1)(logits, labels), lookup("losses", "mae")()(logits, labels) / 2)
    likely = p_y > 0.1
    torch.testing.assert_close(TCE(500)(logits, labels)[likely], -p_y.log()[likely])


@pytest.mark.parametrize("t", [0, 1.5, -1, float("nan")])
def test_t_outside_its_range_is_refused(t):
    with pytest.raises(ValueError, match="tce t must be"):
        TCE(t)
