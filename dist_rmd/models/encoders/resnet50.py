"""ResNet-50: blocks 3, 4, 6 and 3 in its stages; `resnet50/imagenet` has the stem for large images."""

from dist_rmd.models.resnet import Bottleneck, ResNet

__all__ = ["resnet50"]


def resnet50(width: int = 64, variant: str = "cifar", init: str = "fan_out") -> ResNet:
    """Images N x 3 x S x S -> features N x 32 * width; the variants are the stems of dist_rmd/models/resnet.py."""
    return ResNet((3, 4, 6, 3), width, variant, Bottleneck, init)
