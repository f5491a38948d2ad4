"""A checked configuration together with what it names: all that can be found wrong before work begins."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dist_rmd import config as configuration
from dist_rmd.config import Config, LabelledOptimization, Optimization, determinants
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
from dist_rmd.pipeline.notes import notes
from dist_rmd.registry import lookup
from dist_rmd.run import artefacts, start
from dist_rmd.run.folder import RunFolder
from dist_rmd.stages.base import DataInfo, Stage, TrainingStage

METHODS_VERSION = "0.2.0"
"""raised when the same configuration learns something else than before, so that older artefacts are not taken for it;
a release alone does not change it"""


@dataclass(frozen=True)
class ResolvedRun:
    """What is to be done.  Nothing has been written or trained yet."""

    config: Config
    world: World
    dataset: Dataset
    labels: LabelView
    stages: dict[str, type[Stage]]
    """in the order of training"""
    precision: str
    force: bool
    changes: list[str]
    """`key: old -> new` since the folder's last start"""
    inputs: Mapping[str, artefacts.Origin]
    """stages that another run has trained, and where"""

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder.of(self.config)

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.dataset.classes)

    @cached_property
    def _split(self) -> tuple[LabelView, LabelView]:
        return self.labels.split(self.config.data.holdout, self.config.noise.seed)

    @cached_property
    def _true(self) -> LabelView:
        return LabelView.of(self.dataset.labels("train"), self.classes)

    @cached_property
    def notes(self) -> list[str]:
        """What the user would want to know before it begins, a line each."""
        images = self.dataset.sizes["train"] - self.dataset.open_images
        trained_on = self._split[0] if self.config.data.holdout else self.labels
        return notes(self.config, self.dataset.classes, images, self.labels, trained_on)

    def training(self, stage: type[Stage]) -> LabelView:
        """What a stage works on: only one that learns the given labels has any to hold out."""
        if stage.labels == "true":
            return self._true.first(stage.per_class(stage.scope(self.config)) or self.config.data.per_class)
        return self._split[0] if stage.labels == "given" and self.config.data.holdout else self.labels

    def validation(self, stage: type[Stage]) -> LabelView | None:
        """What is held out of a stage's training, under the given labels; None where nothing is."""
        return self._split[1] if stage.labels == "given" and self.config.data.holdout else None

    @property
    def batchnorm(self) -> int | str:
        """What the statistics of a batch are of: statistics of shards depend on how many shards there are.

        All else is the same on any number of ranks.
        """
        return "global" if self.config.dist.sync_batchnorm or self.world.size == 1 else self.world.size

    @property
    def resolved(self) -> dict[str, Any]:
        """What a result depends on beside the values in the configuration: by key, content in place of paths."""
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
        """For each stage, a hash of all that determines its result (up to rounding: neither ranks nor readers)."""
        keys: dict[str, str] = {}
        for name in self.stages:
            keys[name] = self.key(name, keys)
        return keys

    def key(self, name: str, inputs: dict[str, str]) -> str:
        """The hash of one stage, given those of the stages of this run that it needs."""
        stage, compress = self.stages[name], self.config.dist.compress
        labels, config = self.training(stage), stage.scope(self.config)
        return artefacts.key_of(
            {
                "stage": name,
                "version": METHODS_VERSION,
                "sections": {
                    **{section: determinants(values) for section, values in config.sections.items()},
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
                **({"scale": [self.dataset.mean, self.dataset.std]} if self.inputs else {}),  # else the images' own
                "inputs": [
                    self.inputs[needed].key if needed in self.inputs else inputs[needed]
                    for needed in stage.needs(config)
                ],
            }
        )

    def build(self, name: str, inputs: Mapping[str, Any]) -> Stage:
        """The stage with its initial weights, on the CPU, given the artefacts of this run's stages that it needs."""
        stage = self.stages[name]
        config = stage.scope(self.config)
        brought = {needed: artefacts.load(origin.path) for needed, origin in self.inputs.items()}
        inputs = {needed: (brought | dict(inputs))[needed] for needed in stage.needs(config)}
        torch.manual_seed(config.seed)  # the only use of torch's generator
        return stage(config, DataInfo(self.classes, self.dataset.side, len(self.training(stage))), inputs)

    def source(self) -> Loaders:
        """All loaders of the run on this rank."""
        config, world = self.config, self.world
        return Loaders(
            self.dataset, config.data, config.augment,
            world.rank, world.size, world.device, world.cores, parameter_dtype(self.precision),
        )  # fmt: skip

    def origin(self, stage: Stage) -> dict[str, Any]:
        """What must be known of the stage's networks to build and use them; checkpoints and artefacts say it."""
        return {
            "stage": stage.name,
            "classes": list(self.dataset.classes),
            "side": self.dataset.side,
            "mean": list(self.dataset.mean),
            "std": list(self.dataset.std),
            "model": determinants(stage.scope(self.config).model),
        }

    def artefact(self, stage: Stage, key: str, scores: list[dict[str, float]]) -> dict[str, Any]:
        """What a finished stage leaves for later ones and for users; scores: what was measured as it trained."""
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
    """Check all that can be checked before work begins.  Raises ConfigError or DataError.

    force: take up the folder's run although the configuration has changed in what the stages learn.
    dataset: the one at config.data.path, if it is open already.
    world: the processes that will do it, where they are not those that this one finds itself among.
    """
    names = config.stages
    stages: dict[str, type[Stage]] = {name: lookup("stages", name) for name in names}
    if not stages or len(stages) < len(names):
        raise ConfigError(f"stages={list(names)}: name at least one stage, and each one once")
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
    for origin in inputs.values():  # a network is to see images on the scale that it knows
        dataset = replace(dataset, mean=origin.mean, std=origin.std)
    labels = _labels(config, dataset)
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
    for name, stage in stages.items():
        plan._files(stage)
        stage.check(stage.scope(config))
        if stage.labels == "true" and not dataset.verified:
            raise ConfigError(f"stage {name} learns true labels, but nobody knows those of {dataset.folder}")
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


def _digest(key: str, path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise DataError(f"{key}={path}: cannot be read ({error.strerror})") from None


def _inputs(config: Config, stages: Mapping[str, type[Stage]], dataset: Dataset) -> dict[str, artefacts.Origin]:
    """What `inputs` names.  Raises ConfigError or DataError."""
    needed = {name for stage in stages.values() for name in stage.needs(stage.scope(config))}
    found: dict[str, artefacts.Origin] = {}
    for name, where in config.inputs.items():
        if name not in needed or name in stages:
            why = "this run trains it itself" if name in stages else "no stage of this run starts from it"
            raise ConfigError(f"inputs.{name}={where}: {why}; stages={list(stages)}")
        path = Path(where)
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


def _labels(config: Config, dataset: Dataset) -> LabelView:
    noise, per_class, skip = config.noise, config.data.per_class, config.data.skip
    if noise.kind == "file":
        assert noise.file  # Noise has seen to it
        return given_view(dataset, Path(noise.file), noise.column, per_class, skip)
    labels, classes = dataset.labels("train"), len(dataset.classes)
    if not dataset.verified:
        if noise.rate or noise.rho1:
            raise ConfigError(
                f"noise.kind={noise.kind}: nobody knows which labels of {dataset.folder} are right, so none can be "
                "made wrong on purpose; leave noise.rate and noise.rho1 at 0"
            )
        collected = LabelView.of(labels, classes, verified=False).first(per_class, skip)
        return replace(collected, origin={"kind": "collected"})
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
        from dist_rmd.data.labels.instance_noise import instance_view  # scipy, which other runs do without

        return instance_view(dataset, noise.rate, noise.seed, per_class, noise.exact, skip)
    table = class_map(noise.class_map, dataset.name, dataset.classes) if noise.kind == "asymmetric" else None
    return noisy_view(
        labels, classes, noise.kind, noise.rate, noise.seed, per_class, table, noise.exact, noise.include_true, skip
    )
