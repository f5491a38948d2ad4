import pytest
import torch

from dist_rmd.registry import lookup

Focal = lookup("losses", "focal")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p_y = logits.softmax(dim=1)[torch.arange(50), labels]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_equals_the_authors_formula(gamma):
    torch.testing.assert_close(Focal(gamma)(logits, labels), -((1 - p_y) ** gamma) * p_y.log())


def test_it_is_cross_entropy_for_gamma_0():
    torch.testing.assert_close(Focal(0)(logits, labels), lookup("losses", "ce")()(logits, labels))


@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf")])
def test_gamma_outside_its_range_is_refused(gamma):
    with pytest.raises(ValueError, match="focal gamma must be in"):
        Focal(gamma)
