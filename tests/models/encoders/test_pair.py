import torch

from dist_rmd.models.encoder import encoder


def test_features_stand_side_by_side():
    torch.manual_seed(0)
    net = encoder("pair/resnet10", 8)
    images = torch.randn(2, 3, 8, 8)
    assert net.out_features == 2 * net.first.out_features == 128
    torch.testing.assert_close(net(images), torch.cat([net.first(images), net.second(images)], dim=1))
    assert not torch.equal(*net(images).chunk(2, dim=1))
