"""Two encoders of one kind side by side: `pair/resnet18`, in which the networks of stage `dividemix` are kept."""

import torch
from torch import Tensor

from dist_rmd.models.encoder import Encoder, encoder

__all__ = ["pair"]


class Pair(Encoder):
    """Images N x 3 x S x S -> the features of `first` and of `second`, N x 2D.

    A linear head on these features can average the logits of two classifiers, so a pair of networks is stored, exported
    and evaluated like any other.
    """

    def __init__(self, first: Encoder, second: Encoder):
        super().__init__()
        self.first, self.second = first, second
        self.out_features, self.stride, self.head_std = 2 * first.out_features, first.stride, first.head_std

    def maps(self, images: Tensor) -> Tensor:
        return torch.cat([self.first.maps(images), self.second.maps(images)], dim=1)


def pair(width: int = 64, variant: str = "resnet18", init: str = "fan_out") -> Pair:
    """variant: the name of both encoders, such as resnet18."""
    return Pair(encoder(variant, width, init), encoder(variant, width, init))
