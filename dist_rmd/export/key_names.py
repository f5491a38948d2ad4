"""The weights of a network under the names of dist_rmd, torchvision or timm, and the Python that builds it there.

torchvision's ResNets and timm's have the same names and layers.  Ours differ from them in the stem, one 3 x 3
convolution without max-pooling, so a network of theirs gets that stem before it takes our weights.
"""

from torch import Tensor

from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import ENCODERS
from dist_rmd.models.resnet import ResNet
from dist_rmd.run.saved import SavedNetwork

NAMES = ("dist_rmd", "timm", "torchvision")
THEIR_WIDTH = 64
"""channels of the first stage of their ResNets of basic blocks, which is fixed"""


def check(saved: SavedNetwork, names: str) -> None:
    """Raise ConfigError where the library has no network that could take these weights."""
    name, width = saved.model["name"], saved.model["width"]
    if names == "dist_rmd":
        return
    if ENCODERS[name][0] is not ResNet:
        raise ConfigError(f"--names {names}: {name} with fewer max-pools is not in {names}; take --names dist_rmd")
    if width != THEIR_WIDTH:
        raise ConfigError(
            f"--names {names}: ResNets there begin with {THEIR_WIDTH} channels, but this one has model.width={width}; "
            "take --names dist_rmd"
        )


def state_dict(saved: SavedNetwork, names: str) -> dict[str, Tensor]:
    """The network's tensors by their names there, each with memory of its own."""
    found = {}
    for key, place in places(saved, names).items():
        part, _, below = place.partition(".")
        found[key] = saved.weights[part][below].contiguous()
    return found


def places(saved: SavedNetwork, names: str) -> dict[str, str]:
    """Name there -> name here, such as encoder.conv1.weight."""
    ours = [f"{part}.{key}" for part, weights in saved.weights.items() for key in weights]
    if names == "dist_rmd":
        return {key: key for key in ours}
    return {_theirs(key, ENCODERS[saved.model["name"]][1]): key for key in ours}


def _theirs(key: str, stages: tuple[int, ...]) -> str:
    """encoder.blocks.3.shortcut.0.weight -> layer2.1.downsample.0.weight, where the first stage has 2 blocks."""
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
    """Lines of Python that make `net`, with untrained weights; `call` says how it is called."""
    name, width, classes = saved.model["name"], saved.model["width"], len(saved.origin.classes)
    if names == "dist_rmd":
        body = f"encoder({name!r}, {width})"
        head = f"ImageClassifier({body}, {classes})" if saved.is_classifier else f'ModuleDict({{"encoder": {body}}})'
        brought = "dist_rmd.models.heads", "ImageClassifier"
        if not saved.is_classifier:
            brought = "torch.nn", "ModuleDict"
        return ["from dist_rmd.models.encoder import encoder", "from {} import {}".format(*brought), f"net = {head}"]
    layers = list(ENCODERS[name][1])
    made = f"net = ResNet(BasicBlock, {layers}, num_classes={classes})"
    stem = "torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False), torch.nn.Identity()"
    lines = [
        f"from {names}.models.resnet import BasicBlock, ResNet", made, f"net.conv1, net.maxpool = {stem}",
    ]  # fmt: skip
    return lines if saved.is_classifier else [*lines, "net.fc = torch.nn.Identity()"]


def call(saved: SavedNetwork, names: str) -> str:
    """The expression for the logits, or the features, that `net` gives for `normalised` images."""
    if names != "dist_rmd":
        return "net(normalised)"
    return "net(normalised)[0]" if saved.is_classifier else 'net["encoder"](normalised)'


def metadata(saved: SavedNetwork, names: str) -> dict[str, str]:
    """What a file must say of the network that its tensors are for."""
    return {"names": names, "model": saved.model["name"], "width": str(saved.model["width"])}
