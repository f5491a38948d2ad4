"""Resolves a configuration: checks it, opens the data that it names, makes noisy labels, and computes artefact keys.

Everything that can be found wrong before training is found here.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from dist_rmd import config as configuration
from dist_rmd.config import Config, LabelledOptimization, Model, Optimization, determinants
from dist_rmd.data.labels.class_maps import class_map
from dist_rmd.data.labels.files import given_view
from dist_rmd.data.labels.view import LabelView, noisy_view, openset_view
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.data.prepared.beton import Dataset, open_dataset
from dist_rmd.distributed import processes
from dist_rmd.distributed.processes import World
from dist_rmd.engine.updater import parameter_dtype, resolve_precision
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.files import sha256
from dist_rmd.models.encoder import encoder
from dist_rmd.pipeline.notes import notes
from dist_rmd.registry import lookup
from dist_rmd.run import artefacts, foreign, start
from dist_rmd.run.folder import RunFolder
from dist_rmd.stages.base import DataInfo, Stage, TrainingStage
from dist_rmd.trackers.base import Tracker

METHODS_VERSION = "0.2.0"
"""part of every artefact's key; raised when the same configuration gives other results than before in all stages, and
not at releases (`Stage.revision` is for one stage)"""


@dataclass(frozen=True)
class ResolvedRun:
    """A checked run: configuration, ranks, data, noisy labels and stages.  Nothing is written or trained yet."""

    config: Config
    world: World
    dataset: Dataset
    labels: LabelView
    stages: dict[str, type[Stage]]
    """stage classes by name, in the order of training"""
    precision: str
    force: bool
    changes: list[str]
    """changed keys since the last start in the run folder, each as `key: old -> new`"""
    inputs: Mapping[str, artefacts.Origin]
    """artefacts of stages that another run has trained, by stage"""

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder.of(self.config)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.dataset.classes)

    @cached_property
    def _split(self) -> tuple[LabelView, LabelView]:
        return self.labels.split(self.config.data.holdout, self.config.noise.seed)

    @cached_property
    def _true(self) -> LabelView:
        return LabelView.of(self.dataset.labels("train"), self.classes)

    @cached_property
    def notes(self) -> list[str]:
        """Notes for the user before the run begins, one line each."""
        images = self.dataset.sizes["train"] - self.dataset.open_images
        trained_on = self._split[0] if self.config.data.holdout else self.labels
        return notes(self.config, self.dataset.classes, images, self.labels, trained_on)

    @cached_property
    def trackers(self) -> dict[str, type[Tracker]]:
        """Classes of the trackers that the run's curves go to, by name."""
        return _trackers(self.config)

    def training(self, stage: type[Stage]) -> LabelView:
        """Images and labels that a stage trains on.

        Held-out labels are left out only for stages that learn the given labels: SimSiam sees no labels, and a teacher
        of true labels has its own subset.
        """
        if stage.labels == "true":
            return self._true.first(stage.per_class(stage.scope(self.config)) or self.config.data.per_class)
        return self._split[0] if stage.labels == "given" and self.config.data.holdout else self.labels

    def validation(self, stage: type[Stage]) -> LabelView | None:
        """Held-out images and labels of a stage; None when nothing is held out of its training."""
        return self._split[1] if stage.labels == "given" and self.config.data.holdout else None

    @property
    def batchnorm(self) -> int | str:
        """Batch statistics: "global", or the number of ranks when each rank takes statistics of its own slice.

        This is the one setting by which the number of ranks changes what is learnt.
        """
        return "global" if self.config.dist.sync_batchnorm or self.world.size == 1 else self.world.size

    @property
    def resolved(self) -> dict[str, Any]:
        """Values that determine a result but are not in the configuration: contents of files, the actual precision."""
        return {
            "precision": self.precision,
            "dist.sync_batchnorm": self.batchnorm,
            "data.path": self.dataset.hashes["train"],
            **({"noise.file": self.labels.digest} if self.config.noise.kind == "file" else {}),
            **{f"inputs.{name}": origin.key for name, origin in self.inputs.items()},
            **{key: digest for stage in self.stages.values() for key, digest in self._files(stage).items()},
        }

    def _files(self, stage: type[Stage]) -> dict[str, str]:
        """SHA-256 of the files that a stage reads, by key.  Raises DataError where one is missing."""
        return {key: _digest(key, Path(path)) for key, path in stage.files(stage.scope(self.config)).items()}

    @cached_property
    def keys(self) -> dict[str, str]:
        """Artefact key of each stage: a hash of everything that determines the stage's result up to rounding."""
        keys: dict[str, str] = {}
        for name in self.stages:
            keys[name] = self.key(name, keys)
        return keys

    def key(self, name: str, inputs: dict[str, str]) -> str:
        """Artefact key of the stage `name`.  inputs: the keys of the earlier stages of this run."""
        stage, compress = self.stages[name], self.config.dist.compress
        labels, config = self.training(stage), stage.scope(self.config)
        return artefacts.key_of(
            {
                "stage": name,
                "version": METHODS_VERSION,
                **({"revision": stage.revision} if stage.revision else {}),
                "sections": {
                    **{
                        section: determinants(values)
                        for section, values in config.sections.items()
                        if section not in stage.added or values != type(values)()
                    },
                    "augment": determinants(config.augment),
                    "model": determinants(config.model),
                },
                "seed": config.seed,
                "precision": self.precision,
                "batchnorm": self.batchnorm,
                **({} if compress == "none" else {"compress": compress}),
                **({"files": files} if (files := self._files(stage)) else {}),
                "images": [self.dataset.hashes["train"], hashlib.sha256(labels.indices.tobytes()).hexdigest()],
                "labels": None if stage.labels == "none" else labels.digest,
                **({"test": self.dataset.hashes["test"]} if stage.uses_scores(config) else {}),
                # Without inputs, the images determine their own mean and standard deviation.
                **({"scale": [self.dataset.mean, self.dataset.std]} if self.inputs else {}),
                "inputs": [
                    self.inputs[needed].key if needed in self.inputs else inputs[needed]
                    for needed in stage.needs(config)
                ],
            }
        )

    def build(self, name: str, inputs: Mapping[str, Any]) -> Stage:
        """Make the stage `name` with its initial weights, on the CPU.  inputs: artefacts of this run's stages."""
        stage = self.stages[name]
        config = stage.scope(self.config)
        brought = {needed: origin.content or artefacts.load(origin.path) for needed, origin in self.inputs.items()}
        inputs = {needed: (brought | dict(inputs))[needed] for needed in stage.needs(config)}
        torch.manual_seed(config.seed)  # initial weights are the only use of torch's global generator
        return stage(config, DataInfo(self.classes, self.dataset.side, len(self.training(stage))), inputs)

    def source(self) -> Loaders:
        """The loaders of the run on this rank."""
        config, world = self.config, self.world
        return Loaders(
            self.dataset, config.data, config.augment,
            world.rank, world.size, world.device, world.cores, parameter_dtype(self.precision),
        )  # fmt: skip

    def origin(self, stage: Stage) -> dict[str, Any]:
        """Facts that checkpoints and artefacts hold, so that the stage's networks can be built and used again."""
        return {
            "stage": stage.name,
            "classes": list(self.dataset.classes),
            "side": self.dataset.side,
            "mean": list(self.dataset.mean),
            "std": list(self.dataset.std),
            "model": determinants(stage.scope(self.config).model),
        }

    def artefact(self, stage: Stage, key: str, scores: list[dict[str, float]]) -> dict[str, Any]:
        """The artefact of a finished stage, for later stages and for users.  scores: metrics of its evaluations."""
        return {
            **self.origin(stage),
            "key": key,
            "config": configuration.to_yaml(self.config),
            "scores": scores,
            "measured_on": self.dataset.hashes["test"],
            **stage.artefact(),
        }


def check(
    config: Config, force: bool = False, dataset: Dataset | None = None, world: World | None = None
) -> ResolvedRun:
    """Check the configuration and resolve it.  Raises ConfigError or DataError.

    force: resume the run in the run folder even if the configuration has changed what the stages learn.
    dataset: the dataset at config.data.path, if it is open already.
    world: the ranks to plan for; by default those found in the environment.
    """
    names = config.stages
    stages: dict[str, type[Stage]] = {name: lookup("stages", name) for name in names}
    if not stages or len(stages) < len(names):
        raise ConfigError(f"stages={list(names)}: name at least one stage, and each one once")
    _trackers(config)
    for position, (name, stage) in enumerate(stages.items()):
        there = (*names[:position], *config.inputs)
        if missing := [needed for needed in stage.needs(stage.scope(config)) if needed not in there]:
            raise ConfigError(
                f"stage {name} needs {missing[0]} before it: stages={[*missing, *names]}, or "
                f"inputs.{missing[0]}=<a run that has trained it>"
            )
    parts = Path(config.name).parts
    if not parts or ".." in parts or parts[0] in ("/", "artefacts"):
        raise ConfigError(f"name={config.name}: not the name of a folder of its own within {config.out}")
    world = world or processes.detect(config.device)
    dataset = dataset or open_dataset(Path(config.data.path))
    inputs = _inputs(config, stages, dataset)
    for origin in inputs.values():  # a trained network expects the normalisation of its training
        dataset = replace(dataset, mean=origin.mean, std=origin.std)
    labels = _labels(config, dataset) if _reads_given_labels(stages) else _own_labels(config, dataset)
    if config.speed.cuda_graphs and (world.size > 1 or world.device.type != "cuda"):
        raise ConfigError(
            f"speed.cuda_graphs=true is for one process on a GPU, but there are {world.size} rank(s) on "
            f"{world.device.type}: set it to false"
        )
    precision = resolve_precision(config.precision, world.device)
    changes = start.changes(RunFolder.of(config), config, force)
    plan = ResolvedRun(config, world, dataset, labels, stages, precision, force, changes, inputs)
    if config.data.holdout and not len(plan._split[1]):
        raise ConfigError(f"data.holdout={config.data.holdout:g} holds out none of the {len(labels)} labels: raise it")
    for model in dict.fromkeys(stage.scope(config).model for stage in stages.values()):
        _try_encoder(model)
    for name, stage in stages.items():
        plan._files(stage)
        stage.check(stage.scope(config))
        if stage.labels == "true" and not dataset.verified:
            raise ConfigError(
                f"stage {name} learns true labels, but nobody knows those of {dataset.folder}: bring a teacher that "
                f"has learned other images (inputs.{name}=RUN)"
            )
        if not issubclass(stage, TrainingStage):
            continue
        recipe = config.sections[stage.recipe]
        assert isinstance(recipe, Optimization)
        if isinstance(recipe, LabelledOptimization) and recipe.patience and not config.data.holdout:
            raise ConfigError(
                f"{stage.recipe}.patience={recipe.patience} goes by labels that are held out, and test images are not "
                "to end a training: set data.holdout, such as data.holdout=0.1"
            )
        size, images = recipe.batch_size, len(plan.training(stage))
        if size < 2 * world.size or (stage.views and size > images):
            most = f", and at most the {images} training images" if stage.views else ""
            raise ConfigError(
                f"{stage.recipe}.batch_size={size}: must be at least 2 for each of {world.size} rank(s){most}"
            )
    return plan


@cache  # a sweep checks hundreds of configurations
def _try_encoder(model: Model) -> None:
    """Raise ConfigError for an encoder that there is not."""
    with torch.device("meta"):  # without weights
        encoder(model.name, model.width, model.init)


def _trackers(config: Config) -> dict[str, type[Tracker]]:
    return {name: lookup("trackers", name) for name in config.log.also}


def _digest(key: str, path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"{key}={path}: cannot be read ({error.strerror})") from None


def _inputs(config: Config, stages: Mapping[str, type[Stage]], dataset: Dataset) -> dict[str, artefacts.Origin]:
    """Find the artefacts that `inputs` names, and check that they fit.  Raises ConfigError or DataError."""
    needed = {name for stage in stages.values() for name in stage.needs(stage.scope(config))}
    found: dict[str, artefacts.Origin] = {}
    for name, where in config.inputs.items():
        if name not in needed or name in stages:
            why = "this run trains it itself" if name in stages else "no stage of this run starts from it"
            raise ConfigError(f"inputs.{name}={where}: {why}; stages={list(stages)}")
        path = Path(where)
        if foreign.is_foreign(path):
            found[name] = foreign.origin(path, name, config.weights, dataset.classes, dataset.side)
            continue
        origin = artefacts.origin(RunFolder(path).artefact(name) if path.is_dir() else path)
        if origin.stage != name:
            raise ConfigError(f"inputs.{name}: {origin.path} is of stage {origin.stage}")
        if (origin.classes, origin.side) != (dataset.classes, dataset.side):
            renamed = len(origin.classes) == len(dataset.classes) and origin.classes != dataset.classes
            raise DataError(
                f"inputs.{name}: {origin.path} knows {len(origin.classes)} classes, side {origin.side}, but "
                f"{dataset.folder} has {len(dataset.classes)}, side {dataset.side}"
                f"{', under other names or in another order' if renamed else ''}: prepare the images for what it knows"
            )
        found[name] = origin
    if len({(origin.mean, origin.std) for origin in found.values()}) > 1:
        raise DataError(f"inputs: {', '.join(found)} were trained on images that were normalised differently")
    return found


def _reads_given_labels(stages: Mapping[str, type[Stage]]) -> bool:
    """Whether any stage reads given labels; a teacher alone learns the true labels of all images, under any noise."""
    return any(stage.labels != "true" for stage in stages.values())


def _own_labels(config: Config, dataset: Dataset) -> LabelView:
    """The labels that the dataset comes with."""
    labels = LabelView.of(dataset.labels("train"), len(dataset.classes), dataset.verified)
    return labels.first(config.data.per_class, config.data.skip)


def _labels(config: Config, dataset: Dataset) -> LabelView:
    noise, per_class, skip = config.noise, config.data.per_class, config.data.skip
    if noise.kind == "file":
        assert noise.file  # checked in config.schema.Noise
        return given_view(dataset, Path(noise.file), noise.column, per_class, skip)
    labels, classes = dataset.labels("train"), len(dataset.classes)
    if not dataset.verified:
        if noise.rate or noise.rho1:
            raise ConfigError(
                f"noise.kind={noise.kind}: nobody knows which labels of {dataset.folder} are right, so none can be "
                "made wrong on purpose; leave noise.rate and noise.rho1 at 0"
            )
        return replace(_own_labels(config, dataset), origin={"kind": "collected"})
    if noise.kind == "openset":
        try:
            return openset_view(
                labels, classes, noise.rho1, noise.rho2, noise.seed, per_class,
                noise.include_true, noise.keep_label, skip,
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(
                f"noise.kind=openset with {dataset.folder}: {error}; prepare it again with --open and enough "
                "images, or lower noise.rho1 or noise.rho2"
            ) from None
    if noise.kind == "instance":
        from dist_rmd.data.labels.instance_noise import instance_view  # imports scipy, which takes long

        return instance_view(dataset, noise.rate, noise.seed, per_class, noise.exact, skip)
    table = class_map(noise.class_map, dataset.name, dataset.classes) if noise.kind == "asymmetric" else None
    return noisy_view(
        labels, classes, noise.kind, noise.rate, noise.seed, per_class, table, noise.exact, noise.include_true, skip
    )
