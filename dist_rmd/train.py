"""python -m dist_rmd.train CONFIG.yaml [key=value ...]: train the stages of one run, on one process or on many.

This is the one place where configuration, data, stages, engine and evaluation meet.
"""

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import make_grid

from dist_rmd import __version__, artefacts, run_folder, sections
from dist_rmd import config as configuration
from dist_rmd.collectives import gather_sizes
from dist_rmd.config import Config, to_dict
from dist_rmd.data.batch import Batch
from dist_rmd.data.beton import Dataset, open_dataset
from dist_rmd.data.labels import LabelView, given_view, noisy_view
from dist_rmd.data.source import Source
from dist_rmd.engine import distributed, resume
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console, duration
from dist_rmd.engine.distributed import World
from dist_rmd.engine.loop import fit
from dist_rmd.engine.observer import Observer
from dist_rmd.engine.updater import Updater, resolve_precision
from dist_rmd.engine.writers import Writers
from dist_rmd.errors import ConfigError, DataError, UserError
from dist_rmd.evaluation.splits import Splits
from dist_rmd.registry import lookup
from dist_rmd.stages.base import DataShape, Stage

VIEWS_SHOWN = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see dist_rmd.errors), which <run folder>/exit.json repeats."""
    arguments = _arguments(argv)
    try:
        config = sections.parse(arguments.config, arguments.overrides)
        if arguments.print_config:
            print(configuration.to_yaml(config), end="")
            return 0
        plan = prepare(config)
    except UserError as error:
        if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":  # every rank finds the same: say it once
            print(f"error: {error}", file=sys.stderr)
        return error.code
    try:
        train(plan)
    except UserError as error:
        print(f"error: rank {plan.world.rank}: {error}", file=sys.stderr)
        run_folder.outcome(plan.folder, error.code, str(error), plan.world.rank)
        return error.code
    except Exception as error:
        run_folder.outcome(plan.folder, 1, repr(error), plan.world.rank)
        raise
    finally:
        distributed.stop()
    if plan.world.leads:
        run_folder.outcome(plan.folder, 0, "done", plan.world.rank)
    return 0


@dataclass(frozen=True)
class Plan:
    """A checked configuration together with what it names: nothing has been written or trained yet."""

    config: Config
    world: World
    dataset: Dataset
    labels: LabelView
    stages: tuple[type[Stage], ...]
    precision: str
    folder: Path

    @property
    def shape(self) -> DataShape:
        return DataShape(len(self.dataset.classes), self.dataset.side)


def prepare(config: Config) -> Plan:
    """Check all that can be checked before work begins.  Raises ConfigError or DataError."""
    stages = tuple(lookup("stages", name) for name in config.stages)
    if not stages or len(set(stages)) < len(stages):
        raise ConfigError(f"stages={list(config.stages)}: name at least one stage, and each one once")
    for position, (name, stage) in enumerate(zip(config.stages, stages, strict=True)):
        if missing := [needed for needed in stage.needs if needed not in config.stages[:position]]:
            raise ConfigError(f"stage {name} needs {missing[0]} before it: stages={[*missing, *config.stages]}")
    world = distributed.detect(config.device)
    dataset = open_dataset(Path(config.data.path))
    labels = _labels(config, dataset)
    for stage in stages:
        stage.check(config)
        size = getattr(config, stage.recipe).batch_size
        if not 2 * world.size <= size <= len(labels):
            raise ConfigError(
                f"{stage.recipe}.batch_size={size}: must be at least 2 for each of {world.size} rank(s), "
                f"and at most the {len(labels)} training images"
            )
    folder = Path(config.out) / config.name
    run_folder.refuse_other_run(folder, config)
    precision = resolve_precision(config.precision, world.device)
    return Plan(config, world, dataset, labels, stages, precision, folder)


def train(plan: Plan) -> None:
    """Train every stage of the plan that no earlier run has finished."""
    config, world = plan.config, plan.world
    distributed.start(world, config.dist.timeout)
    console = Console(world.rank, config.log.console_every)
    if world.leads:
        run_folder.describe(plan.folder, config, world.size, str(world.device))
        plan.labels.save(plan.folder / "labels.npz")
    distributed.barrier()
    source = Source(
        plan.dataset, config.data, config.augment, config.seed, world.rank, world.size, world.device, world.cores
    )
    began = time.monotonic()
    console.say(_headline(plan))
    keys: dict[str, str] = {}
    for stage_class, name in zip(plan.stages, config.stages, strict=True):
        keys[name] = _key(plan, stage_class, name, keys)
        own = plan.folder / name / "artefact.pt"
        shared = artefacts.shared_path(Path(config.out), name, keys[name])
        if distributed.leaders(shared.exists()):
            console.say(f"{name}: finished before, reusing {shared}")
            if world.leads:
                artefacts.adopt(own, shared)
        else:
            inputs = {needed: artefacts.load(plan.folder / needed / "artefact.pt") for needed in stage_class.needs}
            torch.manual_seed(config.seed)  # for the initial weights, the only use of torch's generator
            stage = stage_class(config, plan.shape, inputs)
            _train_stage(plan, stage, source, console, keys[name])
            if world.leads:
                artefacts.save(own, shared, _describe(plan, stage, keys[name]))
        distributed.barrier()  # the next stage reads this one's artefact
    console.say(f"finished in {duration(time.monotonic() - began)}: {plan.folder}")


def _train_stage(plan: Plan, stage: Stage, source: Source, console: Console, key: str) -> None:
    config, world = plan.config, plan.world
    stage.net = distributed.place(stage.net, world, config.dist.sync_batchnorm)
    for frozen in stage.frozen():
        frozen.to(world.device).to(memory_format=torch.channels_last)
    loader = source.training(plan.labels, stage.views, stage.optimization.batch_size)
    steps = len(loader)
    updater = Updater(stage.param_groups(), stage.optimization, steps, world.device, plan.precision)
    clock = Clock()
    checkpoints = Checkpoints(plan.folder / stage.name / "checkpoints", config.checkpoint.keep)
    if resume.restore(checkpoints, key, stage.net, updater, clock):
        console.say(f"{stage.name}: going on from epoch {clock.epoch}, step {clock.step}")
    steps_found = gather_sizes(clock.step, world.device)  # so all have read before the leading rank writes
    if len(set(steps_found)) > 1:
        raise DataError(
            f"{checkpoints.folder}: the ranks found checkpoints of steps {steps_found}: is out={config.out} on a file "
            "system that all machines share?"
        )
    writers = Writers(plan.folder, stage.name, world.rank, resumed_at=clock.step)
    observer = Observer(stage.name, writers, console, config.log.every, stage.optimization.batch_size, stage.warning)
    if clock.step == 0 and world.leads:
        writers.image(clock, "train/views", _picture(plan, next(loader.epoch(0))))
    measure = lookup("evaluation", stage.evaluation)
    splits = Splits(
        train=lambda: source.evaluation("train", plan.labels.clean()),
        test=lambda: source.evaluation("test", LabelView.of(plan.dataset.labels("test"), plan.shape.classes)),
        classes=plan.shape.classes,
    )
    net = distributed.parallel(stage.net, world)

    def evaluate() -> dict[str, float]:
        distributed.share_buffers(stage.net)
        return measure(stage.net, splits)

    def save() -> None:
        if world.leads:
            checkpoints.save(clock.step, resume.capture(key, stage.net, updater, clock), world=world.size)

    console.start(stage.name, done=clock.step, steps=steps * stage.optimization.epochs)
    try:
        fit(
            stage, net, loader, updater, clock, observer,
            evaluate, save, config.checkpoint.every,
        )  # fmt: skip
    finally:
        console.stop()
        writers.close()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dist_rmd.train",
        description="Train the stages of one run.  Start it with torchrun or srun for several processes.",
        epilog=f"Keys of CONFIG.yaml and of key=value:\n{configuration.help_text(sections.sections())}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="defaults alone without one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as noise.rate=0.4 or loss.name=gce")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    arguments = parser.parse_args(argv)
    if arguments.config and "=" in arguments.config:
        arguments.overrides.insert(0, arguments.config)
        arguments.config = None
    arguments.config = arguments.config and Path(arguments.config)
    return arguments


def _labels(config: Config, dataset: Dataset) -> LabelView:
    noise, true, classes = config.noise, dataset.labels("train"), len(dataset.classes)
    if noise.kind != "file":
        return noisy_view(true, classes, noise.kind, noise.rate, noise.seed, config.data.per_class)
    if noise.file is None:
        raise ConfigError("noise.kind=file needs noise.file, the labels to train on")
    return given_view(true, classes, Path(noise.file), config.data.per_class)


def _key(plan: Plan, stage: type[Stage], name: str, keys: dict[str, str]) -> str:
    """Hash of all that determines the stage's result (up to rounding: neither ranks nor readers are in it)."""
    config = to_dict(plan.config)
    return artefacts.key_of(
        {
            "stage": name,
            "version": __version__,
            "sections": {section: config[section] for section in (*stage.sections, "model", "augment")},
            "seed": config["seed"],
            "precision": plan.precision,
            # Statistics of shards depend on how many there are; all else is the same on any number of ranks.
            "batchnorm": "global" if config["dist"]["sync_batchnorm"] or plan.world.size == 1 else plan.world.size,
            "images": [plan.dataset.hashes["train"], hashlib.sha256(plan.labels.indices.tobytes()).hexdigest()],
            "labels": plan.labels.digest if stage.uses_labels else None,
            "inputs": [keys[needed] for needed in stage.needs],
        }
    )


def _describe(plan: Plan, stage: Stage, key: str) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "key": key,
        "classes": list(plan.dataset.classes),
        "side": plan.dataset.side,
        "mean": list(plan.dataset.mean),
        "std": list(plan.dataset.std),
        "model": to_dict(plan.config.model),
        "config": configuration.to_yaml(plan.config),
        **stage.artefact(),
    }


def _picture(plan: Plan, batch: Batch) -> Tensor:
    """The first samples of a batch as a grid, all views of one sample side by side: 3 x H x W in [0, 1]."""
    views = torch.stack([view[:VIEWS_SHOWN].float().cpu() for view in batch.views], dim=1)  # n x views x 3 x S x S
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (plan.dataset.mean, plan.dataset.std))
    pixels = (views.flatten(0, 1)[:VIEWS_SHOWN] * std + mean).clamp(0, 1)
    zoom = max(1, 32 // plan.dataset.side)
    return make_grid(pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3), nrow=8)


def _headline(plan: Plan) -> str:
    world, config, labels = plan.world, plan.config, plan.labels
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
    wrong = f", {100 * labels.noise_rate:.1f} % wrong labels" if labels.noise_rate else ""  # as far as is known
    return (
        f"{plan.folder}: {' -> '.join(config.stages)} on {world.size} x {device} ({plan.precision}); "
        f"{len(labels)} images, {plan.shape.classes} classes{wrong}"
    )


if __name__ == "__main__":
    sys.exit(main())
