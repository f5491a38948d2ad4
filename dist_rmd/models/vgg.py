"""VGG-13 and -16 encoders with batch normalisation (Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556).

The convolutions are those of configurations B and D (table 1), without bias since batch normalisation follows.  For
small images the encoder has four max-pools instead of five, and an average pool instead of the hidden linear layers,
as in the code of MODUL's authors: at side 32 the last map is 2 x 2.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from dist_rmd.models.encoder import Encoder


class VGG(Encoder):
    """Encoder: images N x 3 x S x S -> features N x 8*width, for any side S.

    convolutions: number of convolutions in each of the five stages.  width: channels of the first stage (64 in the
        papers); the other stages have 2, 4, 8 and 8 times as many.
    init: "fan_out", normal weights with variance 2 / fan-out of a convolution; "torch", the same weights, with the
        scales of batch normalisation at 0.5 and a head of standard deviation 0.01, as in the code of MODUL's authors.
    """

    stride = 16

    def __init__(self, convolutions: Sequence[int], width: int = 64, init: str = "fan_out"):
        super().__init__()
        channels = 3
        layers: list[nn.Module] = []
        for stage, count in enumerate(convolutions):
            # ceil_mode has no effect where S is a multiple of 16; with S = 8 it keeps the last map from being empty.
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if stage > 0 else []
            for _ in range(count):
                out = width * 2 ** min(stage, 3)
                layers += [nn.Conv2d(channels, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
                channels = out
        self.layers = nn.Sequential(*layers)
        self.out_features = channels
        self.head_std = 0.01 if init == "torch" else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d) and init == "torch":
                nn.init.constant_(module.weight, 0.5)

    def maps(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        x, ends = images, []
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):  # a new stage
                ends.append(x)
            x = layer(x)
        return [*ends, x]
