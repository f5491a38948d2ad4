import pytest
import torch

from dist_rmd.registry import lookup

NFL = lookup("losses", "nfl")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p = logits.softmax(dim=1)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_equals_the_authors_formula(gamma):
    focal = -((1 - p) ** gamma) * p.log()
    torch.testing.assert_close(NFL(gamma)(logits, labels), focal[torch.arange(50), labels] / focal.sum(dim=1))


def test_it_is_normalised_cross_entropy_for_gamma_0():
    torch.testing.assert_close(NFL(0)(logits, labels), lookup("losses", "nce")()(logits, labels))


@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf")])
def test_gamma_outside_its_range_is_refused(gamma):
    with pytest.raises(ValueError, match="nfl gamma must be in"):
        NFL(gamma)
