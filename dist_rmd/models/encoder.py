"""Encoders by name: what `model.name` in a configuration may be."""

from dist_rmd.models.resnet import ResNet
from dist_rmd.models.vgg import VGG

Encoder = ResNet | VGG
"""images N x 3 x S x S -> features N x out_features"""

ENCODERS: dict[str, tuple[type[ResNet] | type[VGG], tuple[int, ...]]] = {
    "resnet10": (ResNet, (1, 1, 1, 1)),
    "resnet18": (ResNet, (2, 2, 2, 2)),
    "resnet34": (ResNet, (3, 4, 6, 3)),
    "vgg13": (VGG, (2, 2, 2, 2, 2)),
    "vgg16": (VGG, (2, 2, 3, 3, 3)),
}
"""the architecture, and how many blocks or convolutions each of its stages has"""


def encoder(name: str, width: int = 64, init: str = "fan_out") -> Encoder:
    """A freshly initialised encoder, images N x 3 x S x S -> features N x out_features = 8*width.

    `name` is one of ENCODERS; its weights come from torch's global generator, as `init`, "fan_out" or "torch", says.
    """
    architecture, stages = ENCODERS[name]
    return architecture(stages, width, init)
