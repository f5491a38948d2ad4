"""The base class of all encoders, and a function that makes an encoder by name (`model.name` in a configuration)."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.errors import ConfigError
from dist_rmd.registry import lookup


class Encoder(nn.Module):
    """Base of all encoders: normalised images N x 3 x S x S -> features N x out_features."""

    out_features: int
    """D, number of features of an image"""
    stride: float
    """side of an image / side of its last map"""
    head_std: float | None = None
    """standard deviation of the initial weights of a linear head; None: nn.Linear's own initialisation"""

    def maps(self, images: Tensor) -> Tensor:
        """The features before they are pooled: N x D x S/stride x S/stride."""
        raise NotImplementedError

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        """The maps at the end of each stage, N x C_i x S_i x S_i; the last stage's maps are the result of `maps`."""
        raise ConfigError(f"{type(self).__name__} has no maps of stages: choose a ResNet or a VGG of this package")

    def pool(self, maps: Tensor) -> Tensor:
        """Pool the result of `maps` to features N x D."""
        return maps.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.maps(images))


class Resized(Encoder):
    """`net`, which expects images of one `side`, for images of any side S, resized first: N x 3 x S x S -> N x D."""

    stride = 0.0  # unknown: the maps' side does not depend on the images' side

    def __init__(self, net: Encoder, side: int):
        super().__init__()
        self.net, self.side, self.out_features = net, side, net.out_features

    def maps(self, images: Tensor) -> Tensor:
        return self.net.maps(F.interpolate(images, size=(self.side, self.side), mode="bilinear", antialias=True))

    def pool(self, maps: Tensor) -> Tensor:
        return self.net.pool(maps)


def encoder(name: str, width: int = 64, init: str = "fan_out") -> Encoder:
    """Make a freshly initialised encoder by name, with the function of dist_rmd/models/encoders/<name>.py.

    name: <file>, or <file>/<variant>, such as resnet18/imagenet, where the file's function has a parameter `variant`.
    width: channels of the first stage.
    init: "fan_out" or "torch", where the file's function has a parameter `init`.  Weights come from torch's global
        generator.
    Raises ConfigError for an unknown name, variant or initialisation.
    """
    file, slash, variant = name.partition("/")
    make = lookup("models.encoders", file)
    asked = {**({"variant": variant} if slash else {}), **({"init": init} if init != "fan_out" else {})}
    for option in asked.keys() - inspect.signature(make).parameters.keys():
        raise ConfigError(f"{name}: {file} knows no {option} {asked[option]!r}, nor any other")
    return make(width, **asked)


def frozen_encoder(artefact: Mapping[str, Any]) -> Encoder:
    """Load the encoder of an artefact, in evaluation mode and without gradient.

    Images are resized for the encoder if the artefact names another image side.
    """
    model = artefact["model"]
    net = encoder(model["name"], model["width"])
    net.load_state_dict(artefact["encoder"])
    return (Resized(net, artefact["sees"]) if "sees" in artefact else net).requires_grad_(False).eval()
