"""Pictures of the images that a run generated in place of training images, or a dataset of all these images."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from dist_rmd.cli.paths import user_path
from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.data.prepared.beton import write
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.files import write_atomically
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun

__all__ = ["generated"]

COLUMNS = 8
ENLARGED = 64
"""smallest side of an image in the picture, in pixels"""


def generated(runs: Sequence[Path], *, dataset: str | None = None) -> str:
    """Picture of the images that a stage without training images has made: dafl, dfad, zskt, inversion.

    runs: run folders with such a stage.
    dataset: folder for a dataset of all images of stage inversion, labelled with the classes sought (one run only).

    Writes <run>/figures/generated-<stage>.png and the same to TensorBoard; returns the paths.
    """
    if dataset is not None and len(runs) != 1:
        raise ConfigError(f"dataset={dataset} is for the images of one run, but there are {len(runs)}")
    lines = []
    for folder in runs:
        run = FinishedRun(folder)
        made = {stage: artefacts.load(run.artefact(stage)) for stage in run.stages}
        made = {stage: artefact for stage, artefact in made.items() if "generated" in artefact}
        if not made:
            raise DataError(f"{folder}: none of its finished stages ({', '.join(run.stages)}) makes images")
        for stage, artefact in made.items():
            path = run.figures / f"generated-{stage}.png"
            picture = draw(artefact)
            write_atomically(path, functools.partial(Image.fromarray(picture).save, format="PNG"))
            with SummaryWriter(str(run.folder.board("figures"))) as board:
                board.add_image(f"figures/generated_{stage}", picture, dataformats="HWC")
            lines.append(str(path))
        if dataset is not None:
            lines.append(_prepared(run, made, user_path(dataset)))
    return "\n".join(lines)


def draw(artefact: dict[str, Any]) -> NDArray[np.uint8]:
    """The picture of an artefact's images, eight in a row, enlarged and framed: H x W x 3 uint8."""
    mean, std = (torch.tensor(artefact[what]).view(3, 1, 1) for what in ("mean", "std"))
    pixels = ((artefact["generated"].float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    zoom = max(1, ENLARGED // artefact["side"])
    large = pixels.permute(0, 2, 3, 1).repeat_interleave(zoom, 1).repeat_interleave(zoom, 2).numpy()
    framed = np.pad(large, ((0, -len(large) % COLUMNS), (2, 2), (2, 2), (0, 0)), constant_values=255)
    rows, (high, wide) = len(framed) // COLUMNS, framed.shape[1:3]
    return framed.reshape(rows, COLUMNS, high, wide, 3).swapaxes(1, 2).reshape(rows * high, COLUMNS * wide, 3)


def _prepared(run: FinishedRun, made: dict[str, dict[str, Any]], out: Path) -> str:
    """Write all images of stage inversion as a dataset, with the test images of the run's own dataset."""
    if "inversion" not in made:
        raise ConfigError(f"dataset={out}: only stage inversion keeps all its images, and {run.folder} has none")
    images, labels = (made["inversion"][what].numpy() for what in ("images", "labels"))
    own = run.dataset()
    test = own.images("test")
    splits = {
        "train": Split(labels, [f"inversion/{i:06d}" for i in range(len(images))], lambda i: images[i]),
        "test": Split(own.labels("test"), own.files("test"), lambda i: test[i]),
    }
    written = write(RawDataset(f"{own.name}-inversion", own.side, own.classes, splits, verified=False), out)
    return f"{written.folder}: {len(images)} images; the labels are the classes that were sought in them"
