"""`train --dry-run`: builds and tries everything, estimates time, memory and disk space, and writes nothing."""

import io
import itertools
import platform
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from dist_rmd.data.augment.keyed_rng import shard
from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.engine.console import duration, print_table
from dist_rmd.pipeline.resolved import ResolvedRun
from dist_rmd.pipeline.session import StageSession, placed
from dist_rmd.run import artefacts
from dist_rmd.stages.base import ComputationStage, TrainingStage

STEPS = 20
"""most steps that are timed for a stage"""
SECONDS = 2.0
"""time after which no further step is timed"""


class Tried(NamedTuple):
    """Measurements of a few steps of a stage."""

    loss: float
    """loss of the first step"""
    size: int
    """size of a checkpoint in bytes"""
    seconds: float
    """estimate for the whole stage: steps and evaluations"""


def dry_run(plan: ResolvedRun, peers: RankGroup) -> None:
    """Build every stage and make a few steps; print ranks, batches, and estimates of time, memory and disk space.

    Raises what training would raise at its start.
    """
    config, world = plan.config, plan.world
    source = plan.source()
    ranks = peers.gather(f"{platform.node()}, {world.device}, {torch.get_num_threads()} threads")
    columns = ("epochs x steps", "batch", "per rank", "parameters", "on disk", "loss", "time")
    headers = (Column(name, no_wrap=True) for name in ("stage", *columns))
    stages = Table(*headers, box=SIMPLE, pad_edge=False)
    made: dict[str, dict[str, Any]] = {}
    disk, seconds = 0, 0.0
    for name, stage_class in plan.stages.items():
        stage = placed(plan, name, made)
        done = artefacts.is_whole(artefacts.shared_path(Path(config.out), name, plan.keys[name]), plan.keys[name])
        shown = f"{name} *" if done else name
        if isinstance(stage, ComputationStage):
            stage.pretend(plan.training(stage_class))
            made[name] = plan.artefact(stage, plan.keys[name], [])
            stages.add_row(*[shown, "computed once", *[""] * 6])
            continue
        assert isinstance(stage, TrainingStage)
        recipe, session = stage.optimization, StageSession(plan, stage, source)
        tried = _try(session, peers)
        chance = {"epoch": 0, "step": 0, "test/top1": 100 / plan.classes}  # accuracy of an untrained network
        made[name] = plan.artefact(stage, plan.keys[name], [chance])
        parts = [len(range(recipe.batch_size)[shard(recipe.batch_size, r, world.size)]) for r in range(world.size)]
        disk += 0 if done else tried.size * (config.checkpoint.keep + 2)  # newest, best, and the one being written
        seconds += 0 if done else tried.seconds
        stages.add_row(
            shown,
            f"{recipe.epochs} x {len(session.batches)}",
            str(recipe.batch_size),
            " ".join(map(str, sorted(set(parts), reverse=True))),
            f"{sum(p.numel() for p in stage.net.parameters()):,}",
            f"{tried.size / 1e6:.1f} MB",
            f"{tried.loss:.4f}",
            "" if done else f"~ {duration(tried.seconds)}",
        )
    memory = max(peers.gather(_peak_memory(world.device)))
    if world.leads:
        _print(plan, ranks, stages, disk, seconds, memory)


def _try(session: StageSession, peers: RankGroup) -> Tried:
    """Make a few training steps.  The first step is not timed, since it includes work that happens only once."""
    stage, updater, device = session.stage, session.updater, session.plan.world.device
    batches = itertools.chain.from_iterable(map(session.batches.epoch, itertools.count()))
    stage.start_epoch()
    session.net.train()
    timed, began, first = -1, 0.0, torch.empty(0)
    for batch in batches:
        with updater.autocast():
            loss = stage.losses(session.net, batch)["loss"]
        updater.backward(loss, session.clock, stage.trained(batch))
        updater.step()
        session.clock.tick()
        stage.after_step(session.clock)
        timed += 1
        if timed == 0:
            first = loss.detach()
            _wait(device)
            began = time.monotonic()
        elif timed == STEPS or peers.gather(time.monotonic() - began)[0] > SECONDS:
            break
    _wait(device)
    step = (time.monotonic() - began) / timed
    epochs, every = stage.optimization.epochs, stage.optimization.eval_every
    training = epochs * len(session.batches) * step
    evaluating = -(-epochs // every) * _evaluation(session, batch.views[0]) if stage.views else 0.0
    return Tried(first.item(), _checkpoint_size(session), training + evaluating)


@torch.inference_mode()
def _evaluation(session: StageSession, view: torch.Tensor) -> float:
    """Estimate the seconds of an evaluation on this rank, from the time of a forward pass of `view`."""
    plan, stage, seconds = session.plan, session.stage, 0.0
    images = plan.dataset.sizes["test"] + len(plan.validation(type(stage)) or ())
    images += len(plan.labels) if stage.evaluation == "knn" else 0
    for net in stage.eval_nets().values():
        encoder = net.get_submodule("encoder").eval()
        began = time.monotonic()
        encoder(view)
        _wait(view.device)
        seconds += time.monotonic() - began
    return seconds * images / plan.world.size / len(view)


def _checkpoint_size(session: StageSession) -> int:
    stage, file = session.stage, io.BytesIO()
    averages = [net.state_dict() for net in stage.averages.values()]
    torch.save([stage.net.state_dict(), averages, session.updater.state_dict(), dict(stage.memory)], file)
    return file.tell()


def _wait(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    """The largest memory of this process so far in bytes: on the GPU, or resident without a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _print(plan: ResolvedRun, ranks: list[str], stages: Table, disk: int, seconds: float, memory: int) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{plan.folder}: {len(plan.labels)} images, {plan.classes} classes, {plan.precision}")
    for change in plan.changes:
        console.print(f"changed since the last start: {change}")
    for note in plan.notes:
        console.print(f"note: {note}")
    for rank, where in enumerate(ranks):
        console.print(f"rank {rank} of {len(ranks)}: {where}")
    print_table(console, stages)
    kind = "of the GPU's" if plan.world.device.type == "cuda" else "resident"
    console.print(
        f"time: about {duration(seconds)} in all, an estimate from up to {STEPS} steps of each stage, on this machine "
        "as busy as it is now; without what is computed once and without checkpoints"
    )
    console.print(f"memory: about {memory / 1e9:,.2f} GB {kind} for each rank, the peak of these steps")
    path = plan.folder.path.absolute()
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    console.print(f"disk for checkpoints: {disk / 1e6:,.1f} MB, of {free / 1e6:,.0f} MB free")
    console.print("* finished before, would be reused; loss: of the first step.  Nothing was written.")
