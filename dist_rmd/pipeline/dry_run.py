"""train --dry-run: everything but training and writing."""

import io
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from dist_rmd.data.augment.keyed_rng import shard
from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.engine.console import print_table
from dist_rmd.pipeline.resolved import ResolvedRun
from dist_rmd.pipeline.session import StageSession, placed
from dist_rmd.run import artefacts
from dist_rmd.stages.base import ComputationStage, TrainingStage


def dry_run(plan: ResolvedRun, peers: RankGroup) -> None:
    """Build every stage and make one step of it on two samples a rank; print the layout, the steps and the disk needed.

    Writes nothing.  Raises what training would raise at its start.
    """
    config, world = plan.config, plan.world
    source = plan.source()
    ranks = peers.gather(f"{platform.node()}, {world.device}, {torch.get_num_threads()} threads")
    columns = ("epochs x steps", "batch", "per rank", "parameters", "on disk", "loss")
    headers = (Column(name, no_wrap=True) for name in ("stage", *columns))
    stages = Table(*headers, box=SIMPLE, pad_edge=False)
    made: dict[str, dict[str, Any]] = {}
    disk = 0
    for name, stage_class in plan.stages.items():
        stage = placed(plan, name, made)
        done = artefacts.is_whole(artefacts.shared_path(Path(config.out), name, plan.keys[name]), plan.keys[name])
        shown = f"{name} *" if done else name
        if isinstance(stage, ComputationStage):
            stage.pretend(plan.training(stage_class))
            made[name] = plan.artefact(stage, plan.keys[name], [])
            stages.add_row(*[shown, "computed once", *[""] * 5])
            continue
        assert isinstance(stage, TrainingStage)
        recipe, session = stage.optimization, StageSession(plan, stage, source)
        loss, size = _try(session)
        chance = {"epoch": 0, "step": 0, "test/top1": 100 / plan.classes}  # what nobody has trained is right by
        made[name] = plan.artefact(stage, plan.keys[name], [chance])
        parts = [len(range(recipe.batch_size)[shard(recipe.batch_size, r, world.size)]) for r in range(world.size)]
        disk += 0 if done else size * (config.checkpoint.keep + 2)  # the newest, the best, and the one being written
        stages.add_row(
            shown,
            f"{recipe.epochs} x {len(session.batches)}",
            str(recipe.batch_size),
            " ".join(map(str, sorted(set(parts), reverse=True))),
            f"{sum(p.numel() for p in stage.net.parameters()):,}",
            f"{size / 1e6:.1f} MB",
            f"{loss:.4f}",
        )
    if world.leads:
        _print(plan, ranks, stages, disk)


def _try(session: StageSession) -> tuple[float, int]:
    """The loss of two samples on each rank, and the bytes of a checkpoint."""
    stage, updater = session.stage, session.updater
    stage.start_epoch()
    batch = next(session.batches.epoch(0)).first(2)
    with updater.autocast():
        loss = stage.losses(session.net, batch)["loss"]
    updater.backward(loss, session.clock, stage.trained(batch))
    updater.step()
    session.clock.tick()
    stage.after_step(session.clock)
    file = io.BytesIO()
    averages = [net.state_dict() for net in stage.averages.values()]
    torch.save([stage.net.state_dict(), averages, updater.state_dict(), dict(stage.memory)], file)
    return loss.item(), file.tell()


def _print(plan: ResolvedRun, ranks: list[str], stages: Table, disk: int) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{plan.folder}: {len(plan.labels)} images, {plan.classes} classes, {plan.precision}")
    for change in plan.changes:
        console.print(f"changed since the last start: {change}")
    for note in plan.notes:
        console.print(f"note: {note}")
    for rank, where in enumerate(ranks):
        console.print(f"rank {rank} of {len(ranks)}: {where}")
    print_table(console, stages)
    path = plan.folder.path.absolute()
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    console.print(f"disk for checkpoints: {disk / 1e6:,.1f} MB, of {free / 1e6:,.0f} MB free")
    console.print("* finished before, would be reused; loss: of two samples a rank.  Nothing was written.")
