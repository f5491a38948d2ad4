"""How time and memory grow with the number of images and of classes: what is done once for a whole dataset or run.

Each figure is of a process of its own, so that its peak memory is that of nothing else.  Images are 16 x 16 random
pixels, features 64 random numbers around a centre for each class; 40 % of the labels are wrong.
"""

import contextlib
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dist_rmd.config import Augment, Data, sections
from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.data.labels.view import LabelView, noisy_view
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.data.prepared.beton import open_dataset, write
from dist_rmd.distill.division import divide, subjective_logic_loss
from dist_rmd.evaluation._splits import splits
from dist_rmd.evaluation.knn import knn
from dist_rmd.files import write_json
from dist_rmd.reports.noise import noise
from dist_rmd.reports.table import table
from dist_rmd.run import artefacts, start
from dist_rmd.run.folder import Exit, RunFolder
from dist_rmd.suspects.scores import suspicion
from dist_rmd.sweep.record import record_path
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table, short
from tools.bench_parts.timing import MIB, Way, resident

SIDE, FEATURES = 16, 64
WRONG = 0.4  # share of the labels
MOST_TESTED = 10_000  # test images; a tenth of the training images where these are fewer
BATCH = 512  # images whose losses are computed at a time, as in the stage
EPOCHS = 100  # scores of each run of the table


def measure(settings: Settings) -> Iterator[Table]:
    sizes = sorted(settings.sizes) or [500, 1000] if settings.quick else sorted(settings.sizes) or [10_000, 100_000]
    chosen = [name for name in OPERATIONS if name in settings.operations or not settings.operations]
    for classes in settings.classes or ((10,) if settings.quick else (10, 100, 1000)):
        seconds: dict[str, dict[int, float]] = {name: {} for name in chosen}
        rows = []
        for images in sizes:
            folder = settings.scratch / "growth"
            for name in FIRST:  # what others find in the folder
                if name not in chosen:
                    alone(name, folder, images, classes)
            for name, before in seconds.items():
                found = alone(name, folder, images, classes)
                before[images] = found["cpu"]
                facts = {
                    "CPU s": short(found["cpu"]),
                    "peak MiB": f"{found['peak'] / MIB:,.0f}",
                    "exponent": exponent(before),
                }
                rows.append(Row(f"{name}, {images:,} images", [found["seconds"]], images=images, facts=facts))
            shutil.rmtree(folder)
        rows.sort(key=lambda row: [*OPERATIONS].index(row.name.rpartition(", ")[0]))
        yield Table(
            f"Growth with the number of images, {classes:,} classes",
            f"Images of {SIDE} x {SIDE}, {FEATURES} features, {WRONG:.0%} of the labels wrong; a tenth as many test "
            f"images, at most {MOST_TESTED:,}. Each once, in a process of its own. peak MiB: of the whole process, "
            "with what it imports and is given. exponent: of the CPU time, from the number of images in the row "
            "before; 1 is linear. The table of a sweep has a run for every thousand images, since it reads no image.",
            rows,
        )


def exponent(seconds: dict[int, float]) -> str:
    """e of time ~ images^e between the last two sizes; empty for the first."""
    if len(seconds) < 2:
        return ""
    (few, before), (many, after) = [*seconds.items()][-2:]
    return f"{math.log(after / before) / math.log(many / few):.2f}"


def alone(name: str, folder: Path, images: int, classes: int) -> dict[str, float]:
    """{"seconds", "cpu" (seconds of all threads), "peak" (bytes)} of the operation in a process of its own.

    Raises RuntimeError where it fails.
    """
    command = [sys.executable, "-m", "tools.bench_parts.growth", name, str(folder), str(images), str(classes)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} of {images} images in {classes} classes: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(name: str, folder: str, images: str, classes: str) -> None:
    """Carry out one operation; print what it took."""
    with contextlib.redirect_stdout(sys.stderr):
        way = OPERATIONS[name](Path(folder), int(images), int(classes))
        began, worked = time.perf_counter(), time.process_time()
        way()
        took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - worked}
        found = {**took, "peak": resident("VmHWM")}
    print(json.dumps(found))


# The operations: (folder, images, classes) -> what is timed


def prepare(folder: Path, images: int, classes: int) -> Way:
    def split(name: str, count: int, seed: int) -> Split:
        def read(i: int) -> NDArray[np.uint8]:
            return np.random.default_rng([seed, i]).integers(0, 256, (SIDE, SIDE, 3), np.uint8)

        return Split(np.arange(count, dtype=np.int64) % classes, [f"{name}/{i}" for i in range(count)], read)

    names = tuple(f"class {i}" for i in range(classes))
    tested = max(classes, min(images // 10, MOST_TESTED))
    source = RawDataset("random", SIDE, names, {"train": split("train", images, 0), "test": split("test", tested, 1)})
    return lambda: write(source, folder / "data")


def opened(folder: Path, images: int, classes: int) -> Way:
    return lambda: open_dataset(folder / "data").labels("train")


def labelled(folder: Path, images: int, classes: int) -> Way:
    labels, path = open_dataset(folder / "data").labels("train"), RunFolder(folder / "run").labels

    def way() -> None:
        noisy_view(labels, classes, "symmetric", WRONG, 0).save(path)
        LabelView.load(path).split(0.1, 0)

    return way


def ordered(folder: Path, images: int, classes: int) -> Way:
    loader = source(folder).training(LabelView.load(RunFolder(folder / "run").labels), ("weak",), BATCH // 4, 0)
    next(loader.epoch(0))
    return lambda: next(loader.epoch(1))


def source(folder: Path) -> Loaders:
    data = Data(reader="memory", compile_views=False)
    return Loaders(open_dataset(folder / "data"), data, Augment(), 0, 1, torch.device("cpu"), 1)


def losses(folder: Path, images: int, classes: int) -> Way:
    """The losses of all images, by batches, as the stage computes them."""
    given = torch.from_numpy(LabelView.load(RunFolder(folder / "run").labels).given)
    logits = 4 * torch.randn(BATCH, classes)

    def way() -> None:
        found = [subjective_logic_loss(logits[: len(labels)], labels) for labels in given.split(BATCH)]
        assert len(torch.cat(found)) == images

    return way


def divided(scaling: str) -> Callable[[Path, int, int], Way]:
    def operation(folder: Path, images: int, classes: int) -> Way:
        view = LabelView.load(RunFolder(folder / "run").labels)
        draw = np.random.default_rng(0)
        values = np.where(view.given == view.true, 0.2, 1.1) + 0.1 * draw.normal(size=images)
        return lambda: divide(values, view.given, scaling=scaling)

    return operation


def neighbours(folder: Path, images: int, classes: int) -> Way:
    """The evaluation of an encoder that takes next to no time itself."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"encoder": nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, FEATURES))})
    both = splits(source(folder), LabelView.load(RunFolder(folder / "run").labels))
    return lambda: knn(net, both)


def suspected(folder: Path, images: int, classes: int) -> Way:
    view = LabelView.load(RunFolder(folder / "run").labels)
    given, features = torch.from_numpy(view.given), around_centres(view, classes)
    return lambda: suspicion(features, given, classes)


def around_centres(view: LabelView, classes: int) -> Tensor:
    """Features of images: a centre for each true class, and as much noise in every direction."""
    draw = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(classes, FEATURES, generator=draw)
    return torch.randn(len(view), FEATURES, generator=draw).add_(centres[torch.from_numpy(view.true)])


def noise_reported(folder: Path, images: int, classes: int) -> Way:
    run = RunFolder(folder / "run")
    config = sections.parse(None, [f"data.path={folder / 'data'}", f"out={folder}", "name=run", "device=cpu"])
    start.describe(run, config, 1, "cpu")
    return lambda: noise([run.path])


def table_reported(folder: Path, images: int, classes: int) -> Way:
    """The table of a sweep of as many finished runs as there are thousands of images, over two axes and three seeds."""
    sweep, seeds = folder / "sweep", (0, 1, 2)
    rows = max(1, math.isqrt(images // 1000 // len(seeds)))
    axes = {"method": [f"method {i}" for i in range(rows)], "rate": [f"0.{i}" for i in range(rows)]}
    cells = []
    for method in axes["method"]:
        for rate in axes["rate"]:
            for seed in seeds:
                run = RunFolder(sweep / f"{method}-{rate}-{seed}")
                run.path.mkdir(parents=True)
                run.config.write_text("stages: [classifier]\n")
                scores = [{"epoch": epoch, "step": epoch, "test/top1": 50.0 + seed} for epoch in range(1, EPOCHS + 1)]
                artefacts.keep(run.artefact("classifier"), {"scores": scores})
                run.write_exit(Exit(0))
                at = {"method": method, "rate": rate}
                cells.append({"run": run.path.name, "coordinates": at, "seed": seed, "changed": []})
    plan: dict[str, object] = {"grid": "growth", "title": "Growth", "published": None, "table": None, "compare": {}}
    write_json(record_path(sweep), {**plan, "overrides": [], "axes": axes, "seeds": list(seeds), "cells": cells})
    return lambda: table([sweep])


OPERATIONS: dict[str, Callable[[Path, int, int], Way]] = {
    "prepare": prepare,
    "opening": opened,
    "label noise, saved, read, split": labelled,
    "order and first batch of an epoch": ordered,
    "division, losses": losses,
    "division, mixture": divided("minmax"),
    "division, mixture, scaled by class": divided("per_class"),
    "kNN": neighbours,
    "suspects": suspected,
    "report noise": noise_reported,
    "report table": table_reported,
}
"""in an order in which each finds what it needs in the folder"""
FIRST = "prepare", "label noise, saved, read, split"


if __name__ == "__main__":
    main(*sys.argv[1:])
