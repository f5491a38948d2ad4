"""What the tests of all ResNets ask."""

from collections.abc import Callable

import pytest
import torch

from dist_rmd.models.resnet import ResNet


def assert_resnet(make: Callable[..., ResNet], millions: float, features: int) -> None:
    """At full width so many parameters without a head, features and strides; forward passes at a small one."""
    for stem, stride in {"cifar": 8, "imagenet": 32}.items():
        with torch.device("meta"):
            net = make(64, stem)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.01 + 0.01 * (stride > 8))
        assert (net.out_features, net.stride) == (features, stride)
        small = make(8, stem).eval()
        images = torch.randn(1, 3, 64, 64)
        assert small.maps(images).shape == (1, features // 8, 64 // stride, 64 // stride)
        assert torch.equal(small(images), small.maps(images).mean(dim=(2, 3)))
