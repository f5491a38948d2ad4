"""Networks and recipes by device: the papers' on a GPU, small ones on CPUs; epochs are as many as fit."""

import json
from pathlib import Path
from typing import Any

from dist_rmd.data.prepared.beton import manifest_path
from tools.replicate_parts.step import Work

ENCODERS = {"cuda": ("resnet18", 64), "cpu": ("resnet10", 16)}


def encoder(work: Work, chosen: tuple[str, int] | None = None) -> tuple[str, ...]:
    """The network that is trained, and views that suit the images."""
    name, width = chosen or ENCODERS[work.device]
    mirrored = () if work.data is not None else ("augment.flip=false",)  # digits are not
    return (f"model.name={name}", f"model.width={width}", *mirrored)


def prepared(folder: Path) -> dict[str, Any]:
    """The manifest of prepared images."""
    return json.loads(manifest_path(folder).read_text())


def training_images(work: Work) -> int:
    """How many are prepared."""
    return int(prepared(work.images)["splits"]["train"]["images"])
