"""ResNet-10, -18 and -34 encoders with the CIFAR stem (He et al. 2016, https://arxiv.org/abs/1512.03385, sec. 4.2).

The stem is one 3x3 convolution of stride 1 without max-pooling, so that 32x32 images keep their resolution through
the first stage; the pooled feature has 8 * width dimensions (512 at full width).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: N x C x H x W -> N x width x H/stride x W/stride."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Encoder: images N x 3 x S x S -> features N x 8*width, for any side S >= 8.

    `blocks` are the BasicBlocks of the four stages; `width` the channels of the first (64 in the papers).
    init: "fan_out", normal weights of variance 2 / outputs of a convolution; "torch", those of nn.Conv2d, uniform with
    variance 1 / (3 inputs).
    """

    stride = 8
    """side of an image / side of the last map"""
    head_std: float | None = None
    """standard deviation of the initial weights of a head on it; None: those of nn.Linear"""

    def __init__(self, blocks: Sequence[int], width: int = 64, init: str = "fan_out"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels, stages = width, []
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(BasicBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*stages)
        self.out_features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and init == "fan_out":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor) -> Tensor:
        """The features before they are pooled: N x 8*width x S/8 x S/8."""
        return self.blocks(F.relu(self.bn1(self.conv1(x))))

    def stage_maps(self, x: Tensor) -> list[Tensor]:
        """What each stage ends with, the last one being `maps`: stage i has N x width*2**i x S/2**i x S/2**i."""
        x, ends = F.relu(self.bn1(self.conv1(x))), []
        for block in self.blocks:
            if block.conv1.stride != (1, 1):  # a new stage
                ends.append(x)
            x = block(x)
        return [*ends, x]

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).mean(dim=(2, 3))  # N x 8*width
