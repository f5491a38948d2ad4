"""Reads a run back from its folder: configuration, labels, scores and trained networks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dist_rmd.cli.paths import user_path
from dist_rmd.config import Config, Role, sections
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.data.prepared.beton import Dataset, open_dataset
from dist_rmd.distributed.processes import World
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.writers import read_metrics
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.files import check_writable
from dist_rmd.run import artefacts, saved
from dist_rmd.run.artefacts import Origin
from dist_rmd.run.folder import RunFolder
from dist_rmd.run.prediction import Picture, Prediction, features, predict
from dist_rmd.run.saved import SavedNetwork


def load_run(folder: str | Path) -> "FinishedRun":
    """Open a run folder, such as runs/digits: configuration, labels, scores and trained networks.

    Raises ConfigError when the folder holds no run.

    >>> from dist_rmd import load_run, open_dataset
    >>> run = load_run("runs/digits")
    >>> run.stages, round(run.labels.noise_rate, 2)
    (['classifier'], 0.4)
    >>> found = run.predict(open_dataset("data/digits").images("test")[:5])
    >>> len(found.classes), found.probabilities.shape
    (5, (5, 10))
    """
    run = FinishedRun(user_path(str(folder)))
    run.config  # noqa: B018  # raises now, not at first use
    return run


def top1(measured: Mapping[str, Any]) -> float | None:
    """Percent of the test images that a classifier is right about, of all that was measured; None where it was not.

    Where test images were held out of training images whose labels nobody has verified, these stand for the right ones.
    """
    return measured.get("test/top1", measured.get("test/top1_unverified"))


@dataclass(frozen=True)
class FinishedRun:
    """The run in the folder `path`."""

    path: Path

    @property
    def folder(self) -> RunFolder:
        """Paths of the run's files."""
        return RunFolder(self.path)

    @cached_property
    def config(self) -> Config:
        """The run's configuration.  Raises ConfigError when the folder holds no run."""
        path = self.folder.config
        if not path.exists():
            raise ConfigError(f"{self.folder}: no run here (no {path.name})")
        return sections.parse(path)

    @property
    def resolved(self) -> dict[str, Any]:
        """Values that determine the result but are not in the configuration: see ResolvedRun.resolved.

        Runs of older versions did not record these values; paths then stand for the contents of the files.
        """
        environment = self.folder.read_environment()
        if "resolved" in environment:
            return environment["resolved"]
        return {key: leaf.value for key, leaf in self.config.leaves.items() if leaf.role is Role.PLACE}

    @cached_property
    def labels(self) -> LabelView:
        """The labels of the run's images, including labels held out by data.holdout."""
        return LabelView.load(self.folder.labels)

    @property
    def stages(self) -> list[str]:
        """Names of the finished stages, in order.  Raises DataError when there is none."""
        finished = [name for name in self.config.stages if self.folder.finished(name)]
        if not finished:
            raise DataError(f"{self.folder}: no stage of this run is finished")
        return finished

    def artefact(self, stage: str) -> Path:
        """Path of the stage's artefact: in this run, or in the run that `inputs` names."""
        given = self.config.inputs.get(stage)
        if given is None or self.folder.finished(stage):  # what another library's file held is kept in the run
            return self.folder.artefact(stage)
        return RunFolder(Path(given)).artefact(stage) if Path(given).is_dir() else Path(given)

    def key(self, stage: str) -> str:
        """Key of the finished stage's artefact: runs with the same key have the same network."""
        return artefacts.load(self.folder.artefact(stage))["key"]

    def has_best(self, stage: str) -> bool:
        """Whether the best epoch's network is here; it is not when the stage was trained by another run."""
        return Checkpoints(self.folder.checkpoints(stage), keep=1).best() is not None

    def scores(self, stage: str) -> list[dict[str, Any]]:
        """Metrics of each evaluation of the stage, such as {"epoch": 1, "step": 78, "test/top1": 31.2}.

        If another run trained the stage, these are its metrics.  For a stage that is not finished: all points of the
        curves so far.
        """
        artefact, metrics = self.folder.artefact(stage), self.folder.metrics
        if artefact.exists():
            return artefacts.load(artefact)["scores"]
        if not metrics.exists():
            return []
        return [record for record in read_metrics(metrics) if record["stage"] == stage]

    def seconds(self, stage: str, tag: str = "perf/train_s") -> float | None:
        """Wall time of the stage's training steps; None where another run has trained it, or an older version.

        tag: perf/cpu_s for the CPU seconds of rank 0's process.
        """
        spent = [point[tag] for point in self._points(stage) if tag in point]
        return sum(spent) if spent else None

    def by_epoch(self, stage: str, tag: str) -> dict[int, float]:
        """epoch -> mean over its steps of a term that the stage's training has logged, such as train/fitted_wrong.

        A logged value counts for the epoch that contains its step, weighted by the number of steps that it covers.
        Without an evaluation of the stage, or where another run has trained it, nothing.
        """
        scores = self.scores(stage)
        if not scores:
            return {}
        steps = scores[-1]["step"] // scores[-1]["epoch"]
        sums: dict[int, float] = defaultdict(float)
        weights: dict[int, int] = defaultdict(int)
        before = 0
        for step, value in ((point["step"], point[tag]) for point in self._points(stage) if tag in point):
            epoch = -(-step // steps)
            sums[epoch] += value * (step - before)
            weights[epoch] += step - before
            before = step
        return {epoch: total / weights[epoch] for epoch, total in sums.items()}

    def _points(self, stage: str) -> list[dict[str, Any]]:
        """What this run has logged while it trained the stage."""
        return [point for point in self._metrics if point["stage"] == stage]

    @cached_property
    def _metrics(self) -> list[dict[str, Any]]:
        metrics = self.folder.metrics
        return list(read_metrics(metrics)) if metrics.exists() else []

    @property
    def forced(self) -> list[str]:
        """Stages that were resumed with --force under another configuration than they began with."""
        ended = self.folder.read_exit()
        return list(ended.forced) if ended else []

    @property
    def figures(self) -> Path:
        """The folder for pictures.  Raises CannotCreate when pictures, or TensorBoard files, cannot be written."""
        for place in (self.folder.figures, self.folder.board("figures")):
            check_writable(place)
        return self.folder.figures

    def dataset(self, path: Path | None = None) -> Dataset:
        """The run's dataset, or the dataset at `path`, with mean and std as the run's networks expect them."""
        try:
            dataset = open_dataset(path or Path(self.config.data.path))
        except DataError as error:
            if path or Path(self.config.data.path).exists():
                raise
            raise DataError(
                f"{error}; {self.folder} was trained on {self.config.data.path}, as seen from where it was started: "
                "evaluate takes --data DIR"
            ) from None
        there = [path for name in (*self.config.inputs, *self.config.stages) if (path := self.artefact(name)).exists()]
        if not there:
            return dataset
        known = artefacts.origin(there[0])
        return replace(dataset, mean=known.mean, std=known.std)

    def source(self, dataset: Dataset, world: World) -> Loaders:
        """Loaders of `dataset` for this rank."""
        config = self.config
        return Loaders(dataset, config.data, config.augment, world.rank, world.size, world.device, world.cores)

    @property
    def trained(self) -> list[str]:
        """Names of the finished stages, in order, and of an unfinished stage that has a checkpoint."""
        folder = self.folder
        begun = [n for n in self.config.stages if folder.finished(n) or any(folder.checkpoints(n).glob("step-*.json"))]
        if not begun:
            raise DataError(f"{self.folder}: no stage of this run is finished, or has a checkpoint")
        return begun

    def networks(self, stage: str) -> list[str]:
        """Names of the stage's evaluated networks; the stage's accuracy is that of the network ""."""
        path = self.artefact(stage)
        return saved.names(artefacts.load(path) if path.exists() else saved.newest(self.folder.checkpoints(stage)))

    def saved(self, stage: str, best: bool = False, name: str = "") -> SavedNetwork:
        """The stage's network as it is saved: of the last epoch, or while the stage is not finished of now.

        best: that of the best epoch.  name: another of `networks`.
        Raises ConfigError for a stage that the run does not have, DataError where nothing, or no network, is saved.
        """
        there = (*self.config.inputs, *self.config.stages)
        if stage not in there:
            raise ConfigError(f"{self.folder}: stage {stage} is not of this run: choose from {', '.join(there)}")
        path, checkpoints = self.artefact(stage), self.folder.checkpoints(stage)
        own = stage in self.config.stages and not path.exists()
        last = saved.of_newest(checkpoints, name) if own else saved.of_artefact(path, name)
        return saved.of_best(checkpoints, last, name) if best else last

    def network(
        self,
        stage: str,
        dataset: Dataset | None = None,
        device: torch.device | str = "cpu",
        best: bool = False,
        name: str = "",
    ) -> nn.Module:
        """The stage's network in evaluation mode, with `.encoder`, and a classifier where the stage trained a head.

        A classifier maps normalised images N x 3 x S x S to (logits N x C, features N x D).
        dataset: if given, checked to fit the network.
        best: take the network of the best epoch instead of the last epoch.
        name: one of `networks`.
        Raises DataError when the network was trained for other classes or another image size than `dataset` has, or no
        checkpoint of the best epoch is here.
        """
        found = self.saved(stage, best, name)
        if dataset is not None:
            _check(found.origin, dataset)
        return found.network().to(device).to(memory_format=torch.channels_last).eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of a classifier's outputs."""
        return self.saved(self._with_network()).origin.classes

    def classifier(self, stage: str | None = None) -> str:
        """The stage whose network classifies: the last finished one that can, or else the one that is under way.

        stage: the one that is wanted.  Raises ConfigError or DataError where it, or every one, has no classifier.
        """
        chosen = [stage] if stage else self._latest()
        for name in chosen:
            if self._has_network(name) and self.saved(name).is_classifier:
                return name
        raise DataError(f"{self.folder}: no classifier in {', '.join(chosen)}")

    def _latest(self) -> list[str]:
        """Stages that have left something: finished ones from the last to the first, then the one under way."""
        return sorted(reversed(self.trained), key=lambda name: not self.folder.finished(name))

    def _has_network(self, stage: str) -> bool:
        path = self.artefact(stage)
        return not path.exists() or "encoder" in artefacts.load(path)

    def _with_network(self) -> str:
        found = next((name for name in self._latest() if self._has_network(name)), None)
        if found is None:
            raise DataError(f"{self.folder}: no stage of this run has a network")
        return found

    def predict(
        self,
        images: Picture | Sequence[Picture],
        stage: str | None = None,
        device: torch.device | str | None = None,
        best: bool = False,
    ) -> Prediction:
        """Classify images: `.classes`, N names, and `.probabilities`, N x C, in the order of `.names`.

        images: one image, or several of any sizes: paths, PIL images, or pixels H x W x 3 (RGB) or H x W (grey), uint8.
        stage: the stage whose network classifies; by default the last finished stage with a classifier.
        device: by default the GPU, if there is one.
        best: take the network of the best epoch instead of the last epoch.

        Images are resized and cropped as `dist-rmd prepare` does, and normalised as in training.  Of a run that was
        stopped before a classifier was finished, the newest checkpoint counts.
        Raises DataError where no stage has a classifier, and for an image that cannot be read.
        """
        return predict(*self._placed(self.classifier(stage), device, best), images)

    def features(
        self,
        images: Picture | Sequence[Picture],
        stage: str | None = None,
        device: torch.device | str | None = None,
        best: bool = False,
    ) -> NDArray[np.float32]:
        """Features of images, N x D: the pooled outputs of an encoder of this run.  images: as in `predict`.

        stage, device, best: as in `predict`; by default of the last finished stage.

        >>> from dist_rmd import load_run, open_dataset
        >>> run = load_run("runs/digits")
        >>> run.features(open_dataset("data/digits").images("test")[:5]).shape
        (5, 64)
        """
        return features(*self._placed(stage or self._with_network(), device, best), images)

    def _placed(self, stage: str, device: torch.device | str | None, best: bool) -> tuple[nn.Module, Origin]:
        """The stage's network, on the device, and where it comes from."""
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return self.network(stage, device=place, best=best), self.saved(stage).origin


def _check(origin: Origin, dataset: Dataset) -> None:
    path, classes, side = origin.path, origin.classes, origin.side
    if len(classes) != len(dataset.classes):
        raise DataError(f"{path}: trained for {len(classes)} classes, but {dataset.folder} has {len(dataset.classes)}")
    if classes != tuple(dataset.classes):
        raise DataError(f"{path}: trained for other classes than {dataset.folder} has (their names or order differ)")
    if side != dataset.side:
        raise DataError(
            f"{path}: trained on images of side {side}, {dataset.folder} has side {dataset.side}: "
            f"prepare it with --side {side}"
        )
