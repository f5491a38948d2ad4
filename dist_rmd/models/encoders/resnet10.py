"""ResNet-10: one block in each stage, for tiny images on a CPU; `resnet10/imagenet` has the stem for large images."""

from dist_rmd.models.resnet import ResNet

__all__ = ["resnet10"]


def resnet10(width: int = 64, variant: str = "cifar", init: str = "fan_out") -> ResNet:
    """Images N x 3 x S x S -> features N x 8 * width; the variants are the stems of dist_rmd/models/resnet.py."""
    return ResNet((1, 1, 1, 1), width, variant, init=init)
