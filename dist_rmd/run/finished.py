"""A finished run, read back: its configuration, labels and trained networks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dist_rmd.cli.paths import user_path
from dist_rmd.config import Config, Role, sections
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.data.prepared.beton import Dataset, open_dataset
from dist_rmd.distributed.processes import World
from dist_rmd.engine import resume
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.writers import read_metrics
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.files import check_writable
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.run import artefacts
from dist_rmd.run.folder import RunFolder
from dist_rmd.run.prediction import Picture, Prediction, predict


def load_run(folder: str | Path) -> "FinishedRun":
    """The run in a run folder, such as runs/digits: its configuration, labels, scores and trained networks.

    Raises ConfigError where the folder holds no run.

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


@dataclass(frozen=True)
class FinishedRun:
    """The run in the folder `path`."""

    path: Path

    @property
    def folder(self) -> RunFolder:
        """Where each of its files is."""
        return RunFolder(self.path)

    @cached_property
    def config(self) -> Config:
        """Its configuration.  Raises ConfigError when the folder holds no run."""
        path = self.folder.config
        if not path.exists():
            raise ConfigError(f"{self.folder}: no run here (no {path.name})")
        return sections.parse(path)

    @property
    def resolved(self) -> dict[str, Any]:
        """What its result depends on beside the values in its configuration, by key: see ResolvedRun.resolved.

        A run of an older version has not written it down: its paths stand for what lies there.
        """
        environment = self.folder.read_environment()
        if "resolved" in environment:
            return environment["resolved"]
        return {key: leaf.value for key, leaf in self.config.leaves.items() if leaf.role is Role.PLACE}

    @cached_property
    def labels(self) -> LabelView:
        """The labels of its images; those held out by data.holdout are among them."""
        return LabelView.load(self.folder.labels)

    @property
    def stages(self) -> list[str]:
        """Its finished stages, in order.  Raises DataError when there is none."""
        finished = [name for name in self.config.stages if self.folder.finished(name)]
        if not finished:
            raise DataError(f"{self.folder}: no stage of this run is finished")
        return finished

    def artefact(self, stage: str) -> Path:
        """Where the stage's artefact is: in this run, or what it takes from another one (inputs)."""
        given = self.config.inputs.get(stage)
        if given is None:
            return self.folder.artefact(stage)
        return RunFolder(Path(given)).artefact(stage) if Path(given).is_dir() else Path(given)

    def key(self, stage: str) -> str:
        """What the finished stage's artefact goes by: runs that have the same key have the same network."""
        return artefacts.load(self.folder.artefact(stage))["key"]

    def has_best(self, stage: str) -> bool:
        """The best epoch's network is here: not where the stage was reused, and trained by another run."""
        return Checkpoints(self.folder.checkpoints(stage), keep=1).best() is not None

    def scores(self, stage: str) -> list[dict[str, Any]]:
        """What was measured as the stage trained, by whichever run did: {"epoch": 1, "step": 78, "test/top1": 31.2}.

        One for each evaluation so far.  Of a stage that is not finished, all points of its curves.
        """
        artefact, metrics = self.folder.artefact(stage), self.folder.metrics
        if artefact.exists():
            return artefacts.load(artefact)["scores"]
        if not metrics.exists():
            return []
        return [record for record in read_metrics(metrics) if record["stage"] == stage]

    @property
    def forced(self) -> list[str]:
        """Stages that were forced to go on under another configuration than they had begun with."""
        ended = self.folder.read_exit()
        return list(ended.forced) if ended else []

    @property
    def figures(self) -> Path:
        """The folder for pictures.  Raises CannotCreate where they, or TensorBoard's, could not be written."""
        for place in (self.folder.figures, self.folder.board("figures")):
            check_writable(place)
        return self.folder.figures

    def dataset(self, path: Path | None = None) -> Dataset:
        """The images it was trained on, or those in `path`, on the scale that its networks know."""
        try:
            dataset = open_dataset(path or Path(self.config.data.path))
        except DataError as error:
            if path or Path(self.config.data.path).exists():
                raise
            raise DataError(
                f"{error}; {self.folder} was trained on {self.config.data.path}, as seen from where it was started: "
                "evaluate takes --data DIR"
            ) from None
        finished = [name for name in self.config.stages if self.folder.finished(name)]
        if not finished:
            return dataset
        known = artefacts.origin(self.folder.artefact(finished[0]))
        return replace(dataset, mean=known.mean, std=known.std)

    def source(self, dataset: Dataset, world: World) -> Loaders:
        """Loaders of `dataset` for this rank."""
        config = self.config
        return Loaders(dataset, config.data, config.augment, world.rank, world.size, world.device, world.cores)

    def networks(self, stage: str) -> list[str]:
        """Names of the stage's evaluated networks: "" is the one that its accuracy is of."""
        return ["", *artefacts.load(self.folder.artefact(stage)).get("others", {})]

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
        dataset: what the network is going to see.
        best: the network of the best epoch in place of the last one's.
        name: another of `networks`.
        Raises DataError when the network was trained for other classes or another image size than `dataset` has, or no
        checkpoint of the best epoch is here.
        """
        artefact = artefacts.load(self.artefact(stage))
        if dataset is not None:
            _check(self.artefact(stage), artefact, dataset)
        saved = artefact["others"][name] if name else artefact
        weights = {part: saved[part] for part in ("encoder", "head") if part in saved}
        if best:
            state = resume.evaluated(Checkpoints(self.folder.checkpoints(stage), keep=1).load_best(), name)
            weights = {part: _below(state, part) for part in weights}
        body = encoder(artefact["model"]["name"], artefact["model"]["width"])
        body.load_state_dict(weights["encoder"])
        net: nn.Module = nn.ModuleDict({"encoder": body})
        if "head" in weights:
            net = ImageClassifier(body, len(artefact["classes"]))
            net.head.load_state_dict(weights["head"])
        return net.to(device).to(memory_format=torch.channels_last).eval()


    def predict(
        self,
        images: Picture | Sequence[Picture],
        stage: str | None = None,
        device: torch.device | str | None = None,
        best: bool = False,
    ) -> Prediction:
        """What a network of this run takes images for: `.classes`, and `.probabilities` (N x C, of the `.names`).

        images: one image, or several of any sizes: paths, PIL images, or pixels H x W x 3 (RGB) or H x W (grey), uint8.
        stage: whose network; by default the last finished one that has a classifier.
        device: by default the GPU, if there is one.
        best: the network of the best epoch in place of the last one's.

        Images are resized and cropped as `dist-rmd prepare` does, and normalised as in training.
        Raises DataError where no finished stage has a classifier, and for an image that cannot be read.
        """
        chosen = [stage] if stage else list(reversed(self.stages))
        classifiers = [name for name in chosen if "head" in artefacts.load(self.artefact(name))]
        if not classifiers:
            raise DataError(f"{self.folder}: no classifier in {', '.join(chosen)}")
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        origin = artefacts.origin(self.artefact(classifiers[0]))
        return predict(self.network(classifiers[0], device=place, best=best), origin, images, place)


def _below(state: dict[str, Any], part: str) -> dict[str, Any]:
    """The state_dict of one submodule within that of the whole network."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _check(path: Path, artefact: dict[str, Any], dataset: Dataset) -> None:
    if len(artefact["classes"]) != len(dataset.classes):
        raise DataError(
            f"{path}: trained for {len(artefact['classes'])} classes, but {dataset.folder} has {len(dataset.classes)}"
        )
    if artefact["classes"] != list(dataset.classes):
        raise DataError(f"{path}: trained for other classes than {dataset.folder} has (their names or order differ)")
    if artefact["side"] != dataset.side:
        raise DataError(
            f"{path}: trained on images of side {artefact['side']}, {dataset.folder} has side {dataset.side}: "
            f"prepare it with --side {artefact['side']}"
        )
