"""Encoders by name: what `model.name` in a configuration may be."""

from dist_rmd.models.resnet import ResNet

BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


def encoder(name: str, width: int = 64) -> ResNet:
    """A freshly initialised encoder, images N x 3 x S x S -> features N x out_features.

    `name` is one of BLOCKS; its weights come from torch's global generator.
    """
    return ResNet(BLOCKS[name], width)
