import torch
from support.forked import on_ranks
from support.ranks.features import Share
from torch import nn

from dist_rmd.evaluation._features import extract_all


def test_all_images_in_order():
    features, labels, indices = extract_all(nn.Identity(), Share(0, 1))
    assert indices.tolist() == list(range(7))
    assert labels.tolist() == [i % 3 for i in range(7)]
    assert features.flatten().tolist() == list(range(7))
    assert features.dtype == torch.float32


def test_every_rank_gets_all():
    on_ranks(3, "features")
