import torch
from torch import nn

from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier, mlp, predictor, projector


def kinds(net):
    return [type(module).__name__ for module in net]


def test_projector_is_the_cifar_recipe():
    net = projector(512, 2048, 2048, layers=2)
    assert kinds(net) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
    assert net[1].affine
    assert not net[4].affine
    assert net(torch.randn(4, 512)).shape == (4, 2048)
    assert kinds(projector(8, 8, 8, layers=3)).count("Linear") == 3


def test_predictor_is_a_bottleneck_without_output_normalisation():
    net = predictor(2048, 512)
    assert kinds(net) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert net[3].bias is not None
    assert net(torch.randn(4, 2048)).shape == (4, 2048)


def test_mlp_has_one_hidden_layer():
    net = mlp(512, 2048, 128)
    assert kinds(net) == ["Linear", "ReLU", "Linear"]
    assert net(torch.randn(4, 512)).shape == (4, 128)
    assert kinds(mlp(512, 4096, 256, batchnorm=True)) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_classifier_returns_logits_and_the_features_they_come_from():
    net = ImageClassifier(encoder("resnet18", width=4), classes=3)
    logits, features = net(torch.randn(2, 3, 8, 8))
    assert features.shape == (2, 32)
    torch.testing.assert_close(logits, nn.functional.linear(features, net.head.weight, net.head.bias))
