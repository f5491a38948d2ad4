import pytest
import torch

from dist_rmd.models.generator import Generator


@pytest.mark.parametrize("side", [8, 16, 30, 32])
@pytest.mark.parametrize("bounded", [True, False])
def test_images_are_normalised_over_the_batch(side, bounded):
    torch.manual_seed(0)
    images = Generator(latent=5, side=side, width=8, bounded=bounded)(torch.randn(12, 5))
    assert images.shape == (12, 3, side, side)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.var((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-2)
    assert images.std(0).mean() > 0.2  # they differ


def test_at_side_32_it_is_that_of_dfads_code():
    """Linear, normalisation, 8 -> 16 -> 32 by nearest neighbours, convolutions 128, 128, 64, 3."""
    net = Generator(latent=256, side=32).double()
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(128, 128), (128, 64), (64, 3)]
    noise = torch.randn(4, 256, dtype=torch.float64)
    x = net.begin(net.project(noise).view(4, 128, 8, 8)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = net.middle(x).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(net(noise), net.end(x), rtol=1e-12, atol=1e-12)
