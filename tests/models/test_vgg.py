import pytest
import torch
import torchvision
from torch import nn

from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier

NAMES = ("vgg13", "vgg16")


def convolutions(net):
    return [tuple(module.weight.shape) for module in net.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_are_the_published_ones(name):
    with torch.device("meta"):
        published = getattr(torchvision.models, f"{name}_bn")(weights=None).features
        assert convolutions(encoder(name)) == convolutions(published)


@pytest.mark.parametrize(("name", "published", "biases"), [("vgg13", 9_416_010, 2_944), ("vgg16", 14_728_266, 4_224)])
def test_full_width_has_the_published_number_of_parameters(name, published, biases):
    """Of the usual CIFAR-10 VGG with one linear layer (9.4 and 14.7 million), which gives each convolution a bias.

    VGG-13: convolutions 9 (3*64 + 64*64 + 64*128 + 128*128 + 128*256 + 256*256 + 256*512 + 3*512*512) = 9,402,048,
    normalisations 4 (64 + 128 + 256 + 2*512) = 5,888, head 512*10 + 10 = 5,130.
    """
    with torch.device("meta"):
        net = ImageClassifier(encoder(name), 10)
    assert net.encoder.out_features == 512
    assert sum(p.numel() for p in net.parameters()) == published - biases


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("side", "last"), [(32, 2), (64, 4), (28, 2), (8, 1), (1, 1)])
def test_feature_is_pooled_at_any_side(name, side, last):
    net, maps = encoder(name, width=8).eval(), []
    net.layers.register_forward_hook(lambda module, inputs, out: maps.append(out))
    features = net(torch.randn(2, 3, side, side))
    assert features.shape == (2, 64)
    assert maps[0].shape == (2, 64, last, last)
    torch.testing.assert_close(features, nn.functional.adaptive_avg_pool2d(maps[0], 1).flatten(1))


def test_four_pools_each_after_a_stage():
    kinds = [type(layer) for layer in encoder("vgg16", width=8).layers]
    assert kinds.count(nn.MaxPool2d) == 4
    stages = "".join({nn.Conv2d: "c", nn.MaxPool2d: "M"}.get(kind, "") for kind in kinds)
    assert stages == "ccMccMcccMcccMccc"


@pytest.mark.parametrize("side", [32, 64])
def test_channels_last_is_the_same_network(side):
    torch.manual_seed(0)
    net = encoder("vgg13", width=8).double()
    images, found = torch.randn(4, 3, side, side, dtype=torch.float64), {}
    for layout in (torch.contiguous_format, torch.channels_last):
        net.zero_grad()
        features = net.to(memory_format=layout)(images.to(memory_format=layout))
        features.square().sum().backward()
        found[layout] = [features.detach(), *(p.grad.clone() for p in net.parameters())]
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter_at_a_healthy_size(name):
    """Neither vanishing nor exploding over 13 layers: the first convolution's is within two orders of the last's."""
    torch.manual_seed(0)
    net = ImageClassifier(encoder(name, width=8), 10)
    logits, _ = net(torch.randn(16, 3, 32, 32))
    nn.functional.cross_entropy(logits, torch.arange(16) % 10).backward()
    assert all(p.grad.isfinite().all() and p.grad.count_nonzero() for p in net.parameters())
    norms = [module.weight.grad.norm() for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert 0.01 < norms[0] / norms[-1] < 100


def test_the_last_of_the_stages_maps_are_the_features():
    net = encoder("vgg13", 8).eval()
    images = torch.randn(2, 3, 32, 32)
    maps = net.stage_maps(images)
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]
    assert torch.equal(maps[-1], net.maps(images))


def test_initial_weights_as_in_the_authors_code():
    torch.manual_seed(0)
    usual = ImageClassifier(encoder("vgg13", 16), 10)
    torch.manual_seed(0)
    theirs = ImageClassifier(encoder("vgg13", 16, "torch"), 10)
    for a, b in zip(usual.encoder.modules(), theirs.encoder.modules(), strict=True):
        if isinstance(a, nn.Conv2d):
            assert torch.equal(a.weight, b.weight)
        if isinstance(a, nn.BatchNorm2d):
            assert (a.weight == 1).all()
            assert (b.weight == 0.5).all()
    assert theirs.head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert (theirs.head.bias == 0).all()
    assert usual.head.weight.std() > 0.03
