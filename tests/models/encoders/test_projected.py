import pytest
import torch

from dist_rmd.models.encoder import encoder


@pytest.mark.parametrize("name", ["resnet10", "vgg13"])
def test_features_are_a_linear_layer_of_those_below(name):
    net = encoder(f"projected/{name}", 8)
    images = torch.randn(2, 3, 32, 32)
    assert net.out_features == net(images).shape[1] == 256
    net.eval()
    torch.testing.assert_close(net(images), net.projection(net.net(images)))
    assert (net.stride, net.head_std) == (net.net.stride, net.net.head_std)
    torch.testing.assert_close(net.stage_maps(images)[-1], net.maps(images))
