"""Renames a network's weights as in dist_rmd, torchvision or timm, and writes the Python that builds the network there.

torchvision's ResNets and timm's have the same names and layers.  Our ResNets may have another stem, one 3 x 3
convolution without max-pooling: the Python then gives the library's network this stem before it loads our weights.
"""

import torch
from torch import Tensor

from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import Encoder, encoder
from dist_rmd.models.resnet import STEMS, ResNet
from dist_rmd.run.saved import SavedNetwork

NAMES = ("dist_rmd", "timm", "torchvision")
THEIR_WIDTH = 64
"""channels of the first stage of the libraries' ResNets, the only width there"""


def check(saved: SavedNetwork, names: str) -> None:
    """Raise ConfigError if the library has no network that could load these weights."""
    name, width = saved.model["name"], saved.model["width"]
    if names == "dist_rmd":
        return
    if not isinstance(_architecture(saved), ResNet):
        raise ConfigError(f"--names {names}: {name} is not in {names} as it is here; take --names dist_rmd")
    if width != THEIR_WIDTH:
        raise ConfigError(
            f"--names {names}: ResNets there begin with {THEIR_WIDTH} channels, but this one has model.width={width}; "
            "take --names dist_rmd"
        )


def _architecture(saved: SavedNetwork) -> Encoder:
    """Build the encoder on the meta device, without weights."""
    with torch.device("meta"):
        return encoder(saved.model["name"], saved.model["width"])


def _resnet(saved: SavedNetwork) -> ResNet:
    """Build the encoder, a ResNet since `check` has passed, on the meta device, without weights."""
    net = _architecture(saved)
    assert isinstance(net, ResNet)
    return net


def state_dict(saved: SavedNetwork, names: str) -> dict[str, Tensor]:
    """The network's tensors by their names in the library, contiguous."""
    found = {}
    for key, place in places(saved, names).items():
        part, _, below = place.partition(".")
        found[key] = saved.weights[part][below].contiguous()
    return found


def places(saved: SavedNetwork, names: str) -> dict[str, str]:
    """Name of each tensor in the library -> its name here, such as encoder.conv1.weight."""
    ours = [f"{part}.{key}" for part, weights in saved.weights.items() for key in weights]
    if names == "dist_rmd":
        return {key: key for key in ours}
    counts = _resnet(saved).counts
    return {_theirs(key, counts): key for key in ours}


def _theirs(key: str, stages: tuple[int, ...]) -> str:
    """Translate a name to the library's: encoder.blocks.3.shortcut.0.weight -> layer2.1.downsample.0.weight.

    stages: blocks of each stage of the ResNet; the example has 2 in the first stage.
    """
    part, _, below = key.partition(".")
    if part == "head":
        return f"fc.{below}"
    if not below.startswith("blocks."):
        return below
    _, number, rest = below.split(".", 2)
    stage, block = 0, int(number)
    while block >= stages[stage]:
        block -= stages[stage]
        stage += 1
    return f"layer{stage + 1}.{block}.{rest.replace('shortcut.', 'downsample.')}"


def builder(saved: SavedNetwork, names: str) -> list[str]:
    """Lines of Python that build the network `net` with untrained weights, for the expression of `call`."""
    name, width, classes = saved.model["name"], saved.model["width"], len(saved.origin.classes)
    if names == "dist_rmd":
        body = f"encoder({name!r}, {width})"
        head = f"ImageClassifier({body}, {classes})" if saved.is_classifier else f'ModuleDict({{"encoder": {body}}})'
        brought = "dist_rmd.models.heads", "ImageClassifier"
        if not saved.is_classifier:
            brought = "torch.nn", "ModuleDict"
        return ["from dist_rmd.models.encoder import encoder", "from {} import {}".format(*brought), f"net = {head}"]
    net = _resnet(saved)
    block, (side, stride, padding) = net.kind.__name__, STEMS[net.stem]
    lines = [
        f"from {names}.models.resnet import {block}, ResNet",
        f"net = ResNet({block}, {list(net.counts)}, num_classes={classes})",
    ]
    if not net.pooled:
        stem = f"torch.nn.Conv2d(3, 64, {side}, {stride}, {padding}, bias=False), torch.nn.Identity()"
        lines.append(f"net.conv1, net.maxpool = {stem}")
    return lines if saved.is_classifier else [*lines, "net.fc = torch.nn.Identity()"]


def call(saved: SavedNetwork, names: str) -> str:
    """Python expression for the outputs of `net`, logits or features, for images `normalised`."""
    if names != "dist_rmd":
        return "net(normalised)"
    return "net(normalised)[0]" if saved.is_classifier else 'net["encoder"](normalised)'


def metadata(saved: SavedNetwork, names: str) -> dict[str, str]:
    """Metadata that a file needs for the network to be rebuilt."""
    return {"names": names, "model": saved.model["name"], "width": str(saved.model["width"])}
