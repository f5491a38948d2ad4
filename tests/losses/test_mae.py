import torch

from dist_rmd.registry import lookup

MAE = lookup("losses", "mae")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


def test_equals_the_authors_formula():
    one_hot = torch.eye(7, dtype=torch.float64)[labels]
    torch.testing.assert_close(MAE()(logits, labels), (logits.softmax(dim=1) - one_hot).abs().sum(dim=1))


def test_the_sum_over_labels_is_constant():
    """Which is what makes it robust to symmetric noise (Ghosh et al. 2017, theorem 1)."""
    total = sum(MAE()(logits, torch.full((50,), label)) for label in range(7))
    torch.testing.assert_close(total, torch.full((50,), 12.0, dtype=torch.float64))
