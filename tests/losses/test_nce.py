import torch

from dist_rmd.registry import lookup

NCE = lookup("losses", "nce")
labels = torch.arange(50) % 7
logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
p = logits.softmax(dim=1)
p_y = p[torch.arange(50), labels]


def test_equals_the_authors_formula():
    torch.testing.assert_close(NCE()(logits, labels), p_y.log() / p.log().sum(dim=1))


def test_the_sum_over_labels_is_one():
    total = sum(NCE()(logits, torch.full((50,), label)) for label in range(7))
    torch.testing.assert_close(total, torch.ones(50, dtype=torch.float64))


def test_it_is_one_over_the_classes_when_all_are_equally_likely():
    torch.testing.assert_close(NCE()(torch.zeros(3, 8), torch.tensor([0, 4, 7])), torch.full((3,), 1 / 8))
