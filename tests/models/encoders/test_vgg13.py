import torch
from torch import nn

from dist_rmd.models.encoders.vgg13 import vgg13


def test_it_has_as_many_convolutions_as_its_name_says():
    """With the head's three linear layers in the paper, of which an encoder has none."""
    with torch.device("meta"):
        net = vgg13()
    assert sum(isinstance(module, nn.Conv2d) for module in net.modules()) == 10
    assert sum(p.numel() for p in net.parameters()) == 9_407_936
    assert vgg13(8)(torch.randn(2, 3, 32, 32)).shape == (2, 64)
