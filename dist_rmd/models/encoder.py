"""What every encoder is, and encoders by name: what `model.name` in a configuration may be."""

import inspect

import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.errors import ConfigError
from dist_rmd.registry import lookup


class Encoder(nn.Module):
    """Base of all encoders: normalised images N x 3 x S x S -> features N x out_features."""

    out_features: int
    """D, dimensions of the feature"""
    stride: float
    """side of an image / side of the last map"""
    head_std: float | None = None
    """standard deviation of the initial weights of a head on it; None: those of nn.Linear"""

    def maps(self, images: Tensor) -> Tensor:
        """The features before they are pooled: N x D x S/stride x S/stride."""
        raise NotImplementedError

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """What each stage ends with, the last one being `maps`: N x C_i x S_i x S_i."""
        raise ConfigError(f"{type(self).__name__} has no maps of stages: choose a ResNet or a VGG of this package")

    def pool(self, maps: Tensor) -> Tensor:
        """What `maps` gives -> N x D."""
        return maps.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.maps(images))


class Resized(Encoder):
    """`net` with images resized to its own side before it: N x 3 x S x S -> N x D, for any side S."""

    stride = 0.0  # its maps have no fixed share of an image's side

    def __init__(self, net: Encoder, side: int):
        super().__init__()
        self.net, self.side, self.out_features = net, side, net.out_features

    def maps(self, images: Tensor) -> Tensor:
        return self.net.maps(F.interpolate(images, size=(self.side, self.side), mode="bilinear", antialias=True))

    def pool(self, maps: Tensor) -> Tensor:
        return self.net.pool(maps)


def encoder(name: str, width: int = 64, init: str = "fan_out") -> Encoder:
    """A freshly initialised encoder: what dist_rmd/models/encoders/<name>.py makes.

    name: also <file>/<variant>, such as resnet18/imagenet, where the file's function has a parameter `variant`.
    width: channels of the first stage.
    init: "fan_out" or "torch", where it has a parameter `init`; weights come from torch's global generator.
    Raises ConfigError for what there is not.
    """
    file, slash, variant = name.partition("/")
    make = lookup("models.encoders", file)
    asked = {**({"variant": variant} if slash else {}), **({"init": init} if init != "fan_out" else {})}
    for option in asked.keys() - inspect.signature(make).parameters.keys():
        raise ConfigError(f"{name}: {file} knows no {option} {asked[option]!r}, nor any other")
    return make(width, **asked)
