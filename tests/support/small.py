"""A prepared dataset and a recipe small enough for whole runs within tests."""

import functools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rmd.data.datasets.base import Split
from dist_rmd.data.datasets.digits import digits
from dist_rmd.data.labels.noise import OPEN
from dist_rmd.data.prepared.beton import write
from dist_rmd.engine.checkpoint import save_tensors
from dist_rmd.run.artefacts import FORMAT

RECIPE = (
    "data.compile_views=false",
    "data.per_class=15",
    "model.width=8",
    "model.name=resnet10",
    "noise.rate=0.4",
    "simsiam.epochs=2",
    "simsiam.batch_size=32",
    "simsiam.proj_hidden=16",
    "simsiam.proj_out=16",
    "simsiam.pred_hidden=8",
    *(f"{stage}.{key}" for stage in ("byol", "moco") for key in ("epochs=2", "proj_hidden=16", "proj_out=16")),
    *(f"{stage}.batch_size=32" for stage in ("byol", "moco", "dino")),
    "moco.K=50",
    "dino.epochs=2",
    "dino.proj_hidden=16",
    "dino.bottleneck_dim=16",
    "dino.out_dim=20",
    "dino.local_crops_number=2",
    "simclr.epochs=2",
    "simclr.batch_size=32",
    "simclr.proj_hidden=16",
    "simclr.proj_out=16",
    "task.epochs=2",
    "task.batch_size=32",
    "task.lr=0.05",
    "teacher.model=resnet10",
    "teacher.width=8",
    "teacher.epochs=2",
    "teacher.batch_size=32",
    "student.epochs=2",
    "student.batch_size=32",
    "student.lr=0.05",
    "reweight.warmup=1",
    "cleot.warmup=1",
    "war.warmup=1",
    "d2l.k=5",
    "log.every=1",
    "device=cpu",
)


def artefact(path: Path, key: str) -> None:
    """What a finished stage leaves, without any network in it."""
    save_tensors(path, {"format": FORMAT, "key": key})


def prepare(folder: Path, open_images: int = 0, verified: bool = True) -> Path:
    """The digits as betons in `folder`/digits, with `open_images` mirrored ones, which are of none of the classes."""
    return Path(shutil.copytree(f"{_prepared(open_images, verified).name}/digits", folder / "digits"))


@functools.cache
def _prepared(open_images: int, verified: bool) -> tempfile.TemporaryDirectory[str]:
    """Written once, and copied for each module of tests."""
    folder = tempfile.TemporaryDirectory()
    source = digits(None, None)
    train = source.splits["train"]
    count = len(train.labels)

    def read(i: int) -> NDArray[np.uint8]:
        return train.read(i) if i < count else train.read(i - count)[:, ::-1].copy()

    files = [*train.files, *(f"open/{i}" for i in range(open_images))]
    both = Split(np.append(train.labels, [OPEN] * open_images).astype(np.int64), files, read)
    write(replace(source, splits={**source.splits, "train": both}, verified=verified), Path(folder.name) / "digits")
    return folder
