"""VGG-16 with batch normalisation: 2, 2, 3, 3 and 3 convolutions in its stages."""

from dist_rmd.models.vgg import VGG

__all__ = ["vgg16"]


def vgg16(width: int = 64, init: str = "fan_out") -> VGG:
    """Images N x 3 x S x S -> features N x 8 * width."""
    return VGG((2, 2, 3, 3, 3), width, init)
