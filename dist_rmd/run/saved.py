"""Reads a network that a run has saved: in a stage's artefact, or in a checkpoint, which a stopped run has, too."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dist_rmd.engine import resume
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.errors import DataError
from dist_rmd.models.encoder import Resized, encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.run import artefacts
from dist_rmd.run.artefacts import Origin

PARTS = ("encoder", "head")


@dataclass(frozen=True)
class SavedNetwork:
    """A saved encoder, with or without a classifier."""

    origin: Origin
    """path of the file, the network's classes, and size and normalisation of its images"""
    model: Mapping[str, Any]
    """name and width of the encoder"""
    weights: Mapping[str, Mapping[str, Any]]
    """state_dicts of `encoder`, and of `head` where the stage trained one"""
    when: str
    """epoch of the weights, in words: last epoch, 20"""
    sees: int | None = None
    """side that images are resized to first, if the network expects another side than that of the images"""

    @property
    def is_classifier(self) -> bool:
        """Whether the network has a head."""
        return "head" in self.weights

    def network(self) -> nn.Module:
        """The network on the CPU, with `.encoder`; a classifier maps images to (logits N x C, features N x D)."""
        body = encoder(self.model["name"], self.model["width"])
        body.load_state_dict(self.weights["encoder"])
        body = body if self.sees is None else Resized(body, self.sees)
        if not self.is_classifier:
            return nn.ModuleDict({"encoder": body})
        net = ImageClassifier(body, len(self.origin.classes))
        net.head.load_state_dict(self.weights["head"])
        return net


def of_artefact(path: Path, name: str = "") -> SavedNetwork:
    """The network of a finished stage.  name: another of the stage's evaluated networks.  Raises DataError."""
    content = artefacts.load(path)
    saved = content["others"][name] if name else content
    weights = {part: saved[part] for part in PARTS if part in saved}
    if "encoder" not in weights:
        raise DataError(f"{path}: no network, but what stage {content['stage']} has worked out")
    epoch = content["scores"][-1]["epoch"]
    when = f"last epoch, {epoch}"
    return SavedNetwork(artefacts.origin(path), content["model"], weights, when, content.get("sees"))


def names(content: Mapping[str, Any]) -> list[str]:
    """Names of the evaluated networks in an artefact or a checkpoint; the stage's accuracy is that of network ""."""
    return [*content["evaluated"]] if "evaluated" in content else ["", *content.get("others", {})]


def newest(folder: Path) -> dict[str, Any]:
    """The newest valid checkpoint in `folder`.  Raises DataError where there is none, or its origin is not recorded."""
    state = Checkpoints(folder, keep=1).load_newest()
    if state is None:
        raise DataError(f"{folder}: no checkpoint of this stage yet")
    if "origin" not in state:
        raise DataError(
            f"{folder}: a checkpoint of an older version, which does not say what its network is of: start the run "
            "again, and its next checkpoint does"
        )
    return state


def of_newest(folder: Path, name: str = "") -> SavedNetwork:
    """The network of the newest checkpoint in `folder`.  Raises DataError."""
    state = newest(folder)
    clock = state["clock"]
    when = f"newest checkpoint, epoch {clock['epoch'] + (clock['batch'] > 0)}, step {clock['step']}"
    origin = artefacts.origin_of(folder, state["origin"], state["lineage"][-1])
    return SavedNetwork(origin, state["origin"]["model"], _parts(state, name), when)


def of_best(folder: Path, last: SavedNetwork, name: str = "") -> SavedNetwork:
    """The network of the best epoch's checkpoint in `folder`; last: the stage's newest network.  Raises DataError."""
    state = Checkpoints(folder, keep=1).load_best()
    when = f"best epoch, {state['clock']['epoch']}"
    return SavedNetwork(last.origin, last.model, _parts(state, name), when)


def _parts(state: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """The state_dicts of a checkpoint's evaluated network, by part."""
    whole = resume.evaluated(state, name)
    parts: dict[str, dict[str, Any]] = {}
    for key, tensor in whole.items():
        part, _, below = key.partition(".")
        if part in PARTS:
            parts.setdefault(part, {})[below] = tensor
    return parts
