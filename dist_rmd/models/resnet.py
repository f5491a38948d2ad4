"""ResNets (He et al. 2016, https://arxiv.org/abs/1512.03385), with a stem for small images or for large images.

Stem "cifar" (sec. 4.2) is a 3x3 convolution of stride 1 without max-pooling, so that 32x32 images keep their
resolution through the first stage; "solo-learn" is the same with a padding of 2, as the library solo-learn has it for
CIFAR; "imagenet" (table 1) is a 7x7 convolution of stride 2 and a max-pooling.  A bottleneck has its stride in the 3x3
convolution, as in torchvision.
"""

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.errors import ConfigError
from dist_rmd.models.batchnorm import normalised
from dist_rmd.models.encoder import Encoder

STEMS = {"cifar": (3, 1, 1), "solo-learn": (3, 1, 2), "imagenet": (7, 2, 3)}
"""name -> side, stride and padding of the first convolution"""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: N x C x H x W -> N x width x H/stride x W/stride."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(_joined(self.bn2, self.conv2(out), self.shortcut, x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: N x C x H x W -> N x 4*width x H/stride x W/stride."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(_joined(self.bn3, self.conv3(out), self.shortcut, x))


def _shortcut(channels: int, out: int, stride: int) -> nn.Module:
    if stride == 1 and channels == out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def _joined(norm: nn.Module, out: Tensor, shortcut: nn.Module, x: Tensor) -> Tensor:
    """The sum of norm(out) and shortcut(x), whose normalisations are carried out at once where there are two."""
    if not isinstance(shortcut, nn.Sequential):
        return norm(out) + x
    one, two = normalised((norm, shortcut[1]), (out, shortcut[0](x)))
    return one + two


class ResNet(Encoder):
    """Encoder: images N x 3 x S x S -> features N x 8*width, or 32*width with bottlenecks, for any side S >= 8.

    blocks: number of blocks in each of the four stages.  width: channels of the first stage (64 in the papers).
    stem: a name in STEMS.  kind: class of the blocks.
    init: "fan_out", normal weights with variance 2 / fan-out of a convolution; "torch", the weights of nn.Conv2d,
        uniform with variance 1 / (3 fan-in).
    Raises ConfigError for an unknown stem.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        width: int = 64,
        stem: str = "cifar",
        kind: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        init: str = "fan_out",
    ):
        super().__init__()
        if stem not in STEMS:
            raise ConfigError(f"there is no ResNet with the stem {stem!r}: choose from {', '.join(STEMS)}")
        self.conv1 = nn.Conv2d(3, width, *STEMS[stem], bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.counts, self.kind, self.stem = tuple(blocks), kind, stem
        self.pooled = stem == "imagenet"
        self.stride = 32 if self.pooled else 8
        channels, stages = width, []
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(kind(channels, width * 2**stage, stride))
                channels = width * 2**stage * kind.expansion
        self.blocks = nn.Sequential(*stages)
        self.out_features = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and init == "fan_out":
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, images: Tensor) -> Tensor:
        return self.blocks(self._begin(images))

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        x, ends, last = self._begin(images), [], [*itertools.accumulate(self.counts)]
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in last:
                ends.append(x)
        return ends

    def _begin(self, images: Tensor) -> Tensor:
        """The stem: images -> the input of the first stage."""
        x = F.relu(self.bn1(self.conv1(images)))
        return F.max_pool2d(x, 3, 2, 1) if self.pooled else x
