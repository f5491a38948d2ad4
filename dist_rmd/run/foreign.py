"""Weights of ResNets that other libraries have trained: torchvision, timm, solo-learn, lightly.

The libraries' names of tensors are recognised under any prefix; tensors of other parts than encoder and head, such as a
projector, are left out.  A file can run no code: it is read as safetensors, or by torch.load with weights_only=True.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_rmd.cli import extras
from dist_rmd.config import Weights as Asked
from dist_rmd.engine.checkpoint import load_tensors
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.models.encoder import encoder
from dist_rmd.run.artefacts import Origin

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""keys under which libraries save the tensors"""
CIFAR_STEMS = {"backbone.": "solo-learn"}
"""prefix of the names in a checkpoint of Lightning -> the stem with a 3 x 3 convolution; all other files have cifar"""
OTHERS = ("momentum", "teacher", "target", "ema", "encoder_k")
"""words in the names of a second, averaged network"""
NETWORKS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (1, 1, 1, 1)): "resnet10",
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
"""(has bottlenecks, number of blocks in each stage) -> name of the encoder"""
FLAT = {  # library -> number of a layer in an nn.Sequential -> name of the layer
    "torchvision": {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"},
    "lightly": {"0": "conv1", "1": "bn1", "2": "layer1", "3": "layer2", "4": "layer3", "5": "layer4"},
}
PARTS = re.compile(r"(conv1|bn1|layer[1-4])\.")
HEAD = re.compile(r"(fc|linear|head|classifier)\.(weight|bias)")
ACCEPTED = "a ResNet of torchvision, timm, solo-learn or lightly is (conv1, bn1, layer1 to layer4)"
IMAGENET = "weights.mean=[0.485,0.456,0.406] weights.std=[0.229,0.224,0.225]"


@dataclass(frozen=True)
class Weights:
    """The network in a file, with this package's names of tensors."""

    model: str
    """the encoder, as in model.name"""
    width: int
    encoder: Mapping[str, Tensor]
    head: Mapping[str, Tensor] | None
    """weight C x D and bias C of the file's classifier; None where the file has no classifier"""
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    """mean and std that normalised the network's images; None where the file does not say"""

    @property
    def digest(self) -> str:
        """A SHA-256 over the model's name, its width and all tensors."""
        parts = hashlib.sha256(f"{self.model} {self.width}".encode())
        for name, tensor in [*sorted(self.encoder.items()), *sorted((self.head or {}).items())]:
            parts.update(name.encode() + tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return parts.hexdigest()


def is_foreign(path: Path) -> bool:
    """Whether a file holds another library's weights rather than an artefact.  Raises DataError if it is unreadable."""
    return path.is_file() and (path.suffix == ".safetensors" or "format" not in load_tensors(path))


def read(path: Path, model: str | None = None) -> Weights:
    """Read the network in a file of weights.

    model: name of the encoder, where the names of the tensors leave it open; None: as the names tell.
    Raises DataError, in one line that names what was not recognised.
    """
    tensors, about = _tensors(path)
    prefix, names = _recognised(path, tensors)
    own = {names(key.removeprefix(prefix)): value for key, value in tensors.items() if key.startswith(prefix)}
    body = {key: value for key, value in own.items() if PARTS.match(key)}
    counts = tuple(len({key.split(".")[1] for key in body if key.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4))
    deep = any(".conv3." in key for key in body)
    first = body["conv1.weight"]
    if (deep, counts) not in NETWORKS:
        raise DataError(f"{path}: a ResNet of {counts} blocks is none of {', '.join(NETWORKS.values())}")
    lightning = "pytorch-lightning_version" in about
    stem = "imagenet" if first.shape[-1] == 7 else CIFAR_STEMS.get(prefix, "cifar") if lightning else "cifar"
    name, width = model or f"{NETWORKS[deep, counts]}/{stem}".removesuffix("/cifar"), len(first)
    ours = {_ours(key, counts): value for key, value in body.items()}
    with torch.device("meta"):
        net = encoder(name, width)
    expected = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    found = {key: value.float() for key, value in ours.items() if not key.endswith("num_batches_tracked")}
    wrong = [key for key in body if not key.endswith("num_batches_tracked") and not _fits(key, counts, body, expected)]
    missing = expected.keys() - found.keys()
    if wrong or missing:
        what = f"{len(wrong)} names not recognised in a {name}, such as {prefix}{wrong[0]}" if wrong else ""
        lost = f"{len(missing)} tensors of a {name} are missing" if missing else ""
        raise DataError(f"{path}: {' and '.join(filter(None, (what, lost)))}; {ACCEPTED}")
    counters = {key: torch.tensor(0) for key in net.state_dict() if key.endswith("num_batches_tracked")}
    heads = {key.rpartition(".")[2]: value.float() for key, value in own.items() if HEAD.fullmatch(key)}
    head = heads if len(heads) == 2 and heads["weight"].shape[1:] == (net.out_features,) else None
    mean, std = (_colour(about.get(key)) for key in ("mean", "std"))
    return Weights(name, width, {**counters, **found}, head, mean, std)


def origin(path: Path, stage: str, asked: Asked, classes: tuple[str, ...], side: int) -> Origin:
    """A file of weights as an input of a run, with its content.  Raises the errors of `read` and `artefact`."""
    content = artefact(path, stage, read(path, asked.model), classes, side, asked)
    mean, std = tuple(content["mean"]), tuple(content["std"])
    return Origin(path, stage, content["key"], classes, side, mean, std, content=content)


def artefact(
    path: Path, stage: str, weights: Weights, classes: tuple[str, ...], side: int, asked: Asked
) -> dict[str, Any]:
    """The weights as an artefact of stage `stage`.  asked: the section `weights` of the configuration.

    Raises ConfigError where neither the file nor `asked` has mean and std, DataError where a classifier does not fit.
    """
    mean, std = asked.mean or weights.mean, asked.std or weights.std
    if mean is None or std is None or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ConfigError(
            f"inputs.{stage}={path} does not say how its images were normalised: give three values each, such as "
            f"ImageNet's {IMAGENET}"
        )
    if stage == "teacher":
        if weights.head is None:
            raise DataError(f"inputs.teacher={path}: no classifier in it (fc.weight, fc.bias), only an encoder")
        known = len(weights.head["weight"])
        if known != len(classes):
            raise DataError(f"inputs.teacher={path}: knows {known} classes, but the images have {len(classes)}")
    key = hashlib.sha256(f"{weights.digest} {mean} {std} {asked.side}".encode()).hexdigest()[:16]
    return {
        "stage": stage,
        "key": key,
        "classes": list(classes),
        "side": side,
        "mean": list(mean),
        "std": list(std),
        "model": {"name": weights.model, "width": weights.width},
        "scores": [{"epoch": 0, "step": 0}],
        "encoder": dict(weights.encoder),
        **({"head": dict(weights.head)} if weights.head else {}),
        **({"sees": asked.side} if asked.side else {}),
    }


def _tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read all tensors by name, and the file's other content."""
    if path.suffix == ".safetensors":
        with extras.explained():
            from safetensors import SafetensorError, safe_open
        try:
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                about = {key: json.loads(said[key]) for key in ("mean", "std") if key in said}
                return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"{path}: not readable as safetensors ({error})") from None
    content: Any = load_tensors(path)
    about = content if isinstance(content, dict) else {}
    inner = next((about[key] for key in WRAPPERS if isinstance(about.get(key), dict)), content)
    tensors = {k: v for k, v in inner.items() if isinstance(v, Tensor)} if isinstance(inner, dict) else {}
    if not tensors:
        raise DataError(f"{path}: no table of tensors by name in it; {ACCEPTED}")
    return tensors, about


def _recognised(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, Any]:
    """The prefix of the encoder's names, and a function that turns the rest of a name into torchvision's name."""
    found: dict[str, Any] = {}
    for key in tensors:
        if key.endswith("conv1.weight") and f"{key[:-12]}layer1.0.conv1.weight" in tensors:
            found[key[:-12]] = str
        for table in FLAT.values():
            flat = {name: number for number, name in table.items()}
            ends = [f"{key[:-8]}{flat[layer]}.0.conv1.weight" for layer in ("layer1", "layer4")]
            if key.endswith("0.weight") and tensors[key].dim() == 4 and all(name in tensors for name in ends):
                found.setdefault(key[:-8], _renamed(table))
    chosen = {prefix: names for prefix, names in found.items() if not any(word in prefix for word in OTHERS)} or found
    if not chosen:
        raise DataError(f"{path}: names such as {next(iter(tensors))} are not recognised; {ACCEPTED}")
    if len(chosen) > 1:
        raise DataError(f"{path}: several networks, {', '.join(chosen)}: save the one that is meant alone")
    ((prefix, names),) = chosen.items()
    return prefix, names


def _renamed(table: Mapping[str, str]) -> Any:
    def names(key: str) -> str:
        number, dot, rest = key.partition(".")
        return f"{table.get(number, number)}{dot}{rest}"

    return names


def _ours(key: str, counts: tuple[int, ...]) -> str:
    """This package's name of a tensor: layer2.1.downsample.0.weight -> blocks.3.shortcut.0.weight, after 2 blocks."""
    part, _, rest = key.partition(".")
    if not part.startswith("layer"):
        return key
    block, _, rest = rest.partition(".")
    number = sum(counts[: int(part[5:]) - 1]) + int(block)
    return f"blocks.{number}.{rest.replace('downsample.', 'shortcut.')}"


def _fits(key: str, counts: tuple[int, ...], body: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    ours = _ours(key, counts)
    return ours in expected and expected[ours].shape == body[key].shape


def _colour(values: Any) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))
