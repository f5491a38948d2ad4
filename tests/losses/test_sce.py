import pytest
import torch

from dist_rmd.registry import lookup

SCE = lookup("losses", "sce")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p_y = logits.softmax(dim=1)[torch.arange(50), labels]


@pytest.mark.parametrize(("a", "b"), [(0.1, 1.0), (6.0, 0.1)])
def test_equals_the_authors_formula(a, b):
    p = logits.softmax(dim=1).clamp(1e-7, 1)
    one_hot = torch.eye(7, dtype=torch.float64)[labels].clamp_min(1e-4)
    expected = -a * p_y.log() - b * (p * one_hot.log()).sum(dim=1)
    torch.testing.assert_close(SCE(a, b)(logits, labels), expected, rtol=1e-5, atol=1e-5)


def test_its_parts_are_the_two_losses():
    for weights, name in (((1, 0), "ce"), ((0, 1), "rce")):
        torch.testing.assert_close(SCE(*weights)(logits, labels), lookup("losses", name)()(logits, labels))


@pytest.mark.parametrize(("a", "b"), [(-0.1, 1), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_weights_outside_their_range_are_refused(a, b):
    with pytest.raises(ValueError, match=r"sce [ab] must be in"):
        SCE(a, b)
