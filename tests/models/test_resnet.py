import pytest
import torch

from dist_rmd.models.encoder import encoder


@pytest.mark.parametrize(("name", "millions"), [("resnet18", 11.17), ("resnet34", 21.28)])
def test_full_width_has_the_published_number_of_parameters(name, millions):
    with torch.device("meta"):
        net = encoder(name)
    count = sum(p.numel() for p in net.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.01)  # without the linear head
    assert net.out_features == 512


@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_feature_is_pooled_at_any_side(side):
    net = encoder("resnet18", width=4)
    assert net(torch.randn(2, 3, side, side)).shape == (2, 32)


def test_first_stage_keeps_the_resolution():
    net = encoder("resnet18", width=4)
    shapes = []
    for block in net.blocks:
        block.register_forward_hook(lambda module, inputs, out: shapes.append(out.shape[-1]))
    net(torch.randn(2, 3, 32, 32))
    assert shapes == [32, 32, 16, 16, 8, 8, 4, 4]


def test_the_last_of_the_stages_maps_are_the_features():
    net = encoder("resnet34", 8).eval()
    images = torch.randn(2, 3, 32, 32)
    maps = net.stage_maps(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert torch.equal(maps[-1], net.maps(images))


def test_initial_weights_are_those_asked_for():
    """By outputs, a 3 x 3 convolution of c channels has the variance 2 / 9c; torch's own is 1 / 27c: a sixth."""
    torch.manual_seed(0)
    wide, short = (encoder("resnet10", 32, init).blocks[3].conv2.weight for init in ("fan_out", "torch"))
    assert wide.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)
    assert short.var().item() == pytest.approx(1 / (27 * 256), rel=0.02)
    assert short.abs().max() <= (9 * 256) ** -0.5
