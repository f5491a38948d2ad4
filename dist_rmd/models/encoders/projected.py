"""An encoder with a linear layer on its features: `projected/resnet18`, the student of embedding graph alignment."""

from torch import Tensor, nn

from dist_rmd.models.encoder import Encoder, encoder

__all__ = ["projected"]

DIMENSIONS = 256
"""of the space in which EGA compares student and teacher (the authors' code)"""


class Projected(Encoder):
    """Images N x 3 x S x S -> a linear layer of the features of `net`, N x 256.

    The features of the network are those after the layer, so it is stored, exported and evaluated like any other.
    """

    def __init__(self, net: Encoder):
        super().__init__()
        self.net, self.projection = net, nn.Linear(net.out_features, DIMENSIONS)
        self.out_features, self.stride, self.head_std = DIMENSIONS, net.stride, net.head_std

    def maps(self, images: Tensor) -> Tensor:
        return self.net.maps(images)

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        return self.net.stage_maps(images)

    def pool(self, maps: Tensor) -> Tensor:
        return self.projection(self.net.pool(maps))


def projected(width: int = 64, variant: str = "resnet18", init: str = "fan_out") -> Projected:
    """variant: the name of the encoder below the layer, such as resnet18."""
    return Projected(encoder(variant, width, init))
