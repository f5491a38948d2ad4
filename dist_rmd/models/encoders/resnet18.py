"""ResNet-18: blocks 2, 2, 2 and 2 in its stages; `resnet18/imagenet` has the stem for large images."""

from dist_rmd.models.resnet import ResNet

__all__ = ["resnet18"]


def resnet18(width: int = 64, variant: str = "cifar", init: str = "fan_out") -> ResNet:
    """Images N x 3 x S x S -> features N x 8 * width; the variants are the stems of dist_rmd/models/resnet.py."""
    return ResNet((2, 2, 2, 2), width, variant, init=init)
