"""Classifiers that judge images they have not seen: one for each part of a run's images, trained on all other parts."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.prepared.beton import Dataset
from dist_rmd.distributed.processes import detect
from dist_rmd.errors import ConfigError
from dist_rmd.evaluation._features import extract_all
from dist_rmd.pipeline.runner import train
from dist_rmd.registry import lookup
from dist_rmd.run.finished import FinishedRun
from dist_rmd.suspects.probabilities import Probabilities

STAGE = "classifier"
JUDGED = 2**24  # probabilities of all classes in memory at a time


class _Probabilities(nn.Module):
    """The classifier `net` as images N x 3 x S x S -> probabilities of the classes, N x C.

    mirrored: take the mean of the probabilities of an image and of its mirror image.
    """

    def __init__(self, net: nn.Module, mirrored: bool):
        super().__init__()
        self.net, self.mirrored = net, mirrored

    def forward(self, images: Tensor) -> Tensor:
        own = self._of(images)
        return (own + self._of(images.flip(3))) / 2 if self.mirrored else own

    def _of(self, images: Tensor) -> Tensor:
        probabilities: Tensor = self.net(images)[0].float().softmax(dim=1)
        return probabilities


def out_of_fold(run: FinishedRun, dataset: Dataset, parts: NDArray[np.int64]) -> Probabilities:
    """Probabilities of the classes (on the CPU) for a run's N images, by networks that have not seen them.

    parts: the part of each image, 0, 1, ..., in the order of the run's labels.

    The network of a part is trained as the run's stage `classifier` is or would be, but for half as many epochs, after
    which it judged as well (docs/results/clean.md).  Its run is <run>/folds/<part>-of-<parts>.
    A stopped training goes on at the next call; a finished network is read back.  Raises ConfigError where no stage of
    the run is configured by the section `task`, so that nobody has chosen how to train a classifier.
    """
    if not any("task" in lookup("stages", stage).sections for stage in run.config.stages):
        raise ConfigError(
            f"{run.folder}: --folds trains classifiers by the section task, which stages="
            f"[{','.join(run.config.stages)}] do not read; train a run with stage {STAGE} too"
        )
    count = int(parts.max()) + 1

    def judged() -> Iterator[Tensor]:
        for part in range(count):
            held = parts == part
            trained = _trained(run, dataset, _of(run.labels, ~held), f"{part + 1}-of-{count}")
            yield from _judge(trained, dataset, _of(run.labels, held))

    order = np.argsort(parts, kind="stable")
    found = Probabilities.kept(judged(), torch.from_numpy(run.labels.given[order]), len(dataset.classes))
    return found[torch.from_numpy(np.argsort(order))]


def _of(labels: LabelView, chosen: NDArray[np.bool_] | slice) -> LabelView:
    true = None if labels.true is None else labels.true[chosen]
    return LabelView(labels.indices[chosen], labels.given[chosen], true, labels.num_classes, labels.origin)


def _trained(run: FinishedRun, dataset: Dataset, labels: LabelView, name: str) -> FinishedRun:
    """Train the run's classifier on the images of `labels` alone."""
    folds = run.folder.folds
    table = folds / f"{name}.npz"
    labels.save(table)
    task = run.config.sections["task"]
    start = {} if task.init_from is None else {f"inputs.{task.init_from}": run.artefact(task.init_from)}
    overrides = {
        "task.epochs": max(1, task.epochs // 2), "task.warmup_epochs": task.warmup_epochs / 2,
        "out": folds, "name": name, "stages": f"[{STAGE}]", "inputs": "{}", **start,
        "data.path": dataset.folder, "data.holdout": 0, "data.per_class": "null", "data.skip": 0,
        "noise.kind": "file", "noise.rate": 0, "noise.file": table, "noise.column": "null",
    }  # fmt: skip
    if task.schedule != "cosine":  # which has no milestones
        overrides["task.milestones"] = [milestone // 2 for milestone in task.milestones]
    return train(run.folder.config, *(f"{key}={value}" for key, value in overrides.items()))


def _judge(run: FinishedRun, dataset: Dataset, labels: LabelView) -> Iterator[Tensor]:
    """Class probabilities of the images of `labels` by the run's network, in the order of `labels`: blocks n x C."""
    world = detect("auto")
    net = _Probabilities(run.network(STAGE, dataset, world.device), run.config.augment.flip)
    source, size = run.source(dataset, world), max(1, JUDGED // len(dataset.classes))
    for start in range(0, len(labels), size):
        some = _of(labels, slice(start, start + size))
        found, _, _ = extract_all(net, source.evaluation("train", some))
        yield found.cpu()[_places(some.indices)]


def _places(indices: NDArray[np.int64]) -> Tensor:
    """The place of each image in the beton's order of all these images."""
    return torch.from_numpy(np.argsort(np.argsort(indices)))
