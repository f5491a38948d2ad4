import torch

from dist_rmd.registry import lookup

RCE = lookup("losses", "rce")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


def test_equals_the_authors_formula():
    p = logits.softmax(dim=1)
    one_hot = torch.eye(7, dtype=torch.float64)[labels].clamp_min(1e-4)
    torch.testing.assert_close(RCE()(logits, labels), -(p * one_hot.log()).sum(dim=1))


def test_it_is_4_6_times_the_mean_absolute_error():
    torch.testing.assert_close(
        RCE()(logits, labels), 4.6 * lookup("losses", "mae")()(logits, labels), rtol=2e-3, atol=0
    )
