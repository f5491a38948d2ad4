from typing import get_args

import torch
from torch import nn

from dist_rmd.config import EncoderName
from dist_rmd.models.encoder import ENCODERS, encoder
from dist_rmd.models.resnet import BasicBlock


def test_every_name_builds_its_stages():
    for name, (_, stages) in ENCODERS.items():
        counted = BasicBlock if name.startswith("resnet") else nn.Conv2d
        net = encoder(name, width=2)
        assert sum(isinstance(module, counted) for module in net.modules()) == sum(stages)
        assert net.out_features == 16


def test_configurations_may_name_each():
    assert list(get_args(EncoderName)) == list(ENCODERS)


def test_weights_come_from_the_global_generator():
    for name in ("resnet18", "vgg13"):
        torch.manual_seed(3)
        first = encoder(name, width=2)
        torch.manual_seed(3)
        second = encoder(name, width=2)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
