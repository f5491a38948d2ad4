"""ResNet-34: blocks 3, 4, 6 and 3 in its stages; `resnet34/imagenet` has the stem for large images."""

from dist_rmd.models.resnet import ResNet

__all__ = ["resnet34"]


def resnet34(width: int = 64, variant: str = "cifar", init: str = "fan_out") -> ResNet:
    """Images N x 3 x S x S -> features N x 8 * width; the variants are the stems of dist_rmd/models/resnet.py."""
    return ResNet((3, 4, 6, 3), width, variant, init=init)
