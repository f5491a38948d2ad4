"""Carries out a run: trains the stages in turn, on one process or on many.

This module brings configuration, data, stages, engine and evaluation together.  All ranks execute it alike; rank 0
writes files, and the others learn the outcome through `RankGroup.gather`.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from dist_rmd import config as configuration
from dist_rmd.config import sections
from dist_rmd.data.labels.view import LabelView
from dist_rmd.distributed import processes
from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.engine import run_board
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console, duration
from dist_rmd.engine.logs import logger, rank_log
from dist_rmd.engine.signals import StopRequest
from dist_rmd.engine.tracking import Tracking
from dist_rmd.errors import CannotCreate, UserError
from dist_rmd.files import check_writable
from dist_rmd.pipeline import outcome
from dist_rmd.pipeline.outcome import StageOutcome
from dist_rmd.pipeline.recorded import RecordedSession, compute, measured_anew, with_measured_inputs
from dist_rmd.pipeline.resolved import ResolvedRun, check
from dist_rmd.pipeline.session import placed
from dist_rmd.run import artefacts, start
from dist_rmd.run.finished import FinishedRun
from dist_rmd.run.folder import Exit
from dist_rmd.run.lock import run_lock
from dist_rmd.stages.base import ComputationStage, TrainingStage


@dataclass
class Position:
    """The stage and step that training has reached, for exit.json."""

    stage: str = ""
    clock: Clock = field(default_factory=Clock)


def _train_stages(
    plan: ResolvedRun, peers: RankGroup, request: StopRequest, tracking: Tracking, position: Position
) -> dict[str, str]:
    """Train every stage, or reuse its artefact where an earlier run has finished it.  Returns stage -> artefact key.

    position: updated as training proceeds.
    """
    config, world = plan.config, plan.world
    console = Console(world.rank, config.log.console_every, plan.folder, config.stages)
    if world.leads:
        start.describe(plan.folder, config, world.size, str(world.device), plan.resolved)
        plan.labels.save(plan.folder.labels)
        run_board.show_start(plan.folder.boards, configuration.to_yaml(config), outcome.settings(config, plan.stages))
    source = plan.source()
    plan = with_measured_inputs(plan, source)
    if world.leads:
        for name, origin in plan.inputs.items():
            # Reports find it in the run, with scores on its test images; what an earlier start has left gives way.
            if origin.content is not None or plan.folder.finished(name):
                artefacts.keep(plan.folder.artefact(name), origin.content or artefacts.load(origin.path))
    began = time.monotonic()
    console.say(_headline(plan))
    for change in plan.changes:
        console.say(f"changed since the last start: {change}")
    for note in plan.notes:
        console.say(f"note: {note}")
    keys: dict[str, str] = {}
    outcomes: dict[str, StageOutcome] = {}
    for name, stage_class in plan.stages.items():
        position.stage, position.clock = name, Clock()
        stage_began = time.monotonic()
        keys[name] = plan.key(name, keys)
        own = plan.folder.artefact(name)
        shared = artefacts.shared_path(Path(config.out), name, keys[name])
        found = world.leads and artefacts.find(own, shared, keys[name])
        if peers.gather(found)[0]:  # rank 0 decides: a shared file system shows files to ranks at different times
            console.say(f"{name}: finished before, reusing {shared}")
            if world.leads:
                artefacts.adopt(own, shared)
            peers.gather(None)
            artefact, took = artefacts.load(own), "reused"
            if artefact.get("measured_on", plan.dataset.hashes["test"]) != plan.dataset.hashes["test"]:
                artefact = measured_anew(plan, name, artefact, source)
                console.say(f"{name}: measured anew, on these test images")
                if world.leads:
                    artefacts.keep(own, artefact)
        else:
            needs = [needed for needed in stage_class.needs(stage_class.scope(config)) if needed in keys]
            stage = placed(plan, name, {needed: artefacts.load(plan.folder.artefact(needed)) for needed in needs})
            if isinstance(stage, ComputationStage):
                artefact = compute(plan, stage, source, request, console, tracking, keys[name])
            else:
                assert isinstance(stage, TrainingStage)
                session = RecordedSession(plan, stage, source, peers, request, console, tracking)
                position.clock = session.clock
                artefact = session.train(keys[name])
            keys[name] = artefact["key"]
            if world.leads:
                artefacts.save(own, artefacts.shared_path(Path(config.out), name, keys[name]), artefact)
            took = duration(time.monotonic() - stage_began)
        outcomes[name] = StageOutcome(stage_class, outcome.result(stage_class, artefact["scores"]), took)
        console.say(f"{name}: {outcomes[name].result}")
        peers.gather(None)  # a barrier: every rank reads this artefact for the next stage
    if world.leads:
        run_board.show_end(plan.folder.boards)
    console.say(f"finished in {duration(time.monotonic() - began)}: {plan.folder}")
    for line in outcome.lines(plan.folder, outcomes):
        console.say(line)
    return keys


def train(config: str | Path | None, *overrides: str, force: bool = False) -> FinishedRun:
    """Train the stages of one run, as `dist-rmd train CONFIG key=value ...` does, and return the finished run.

    config: a YAML file, or a shipped one such as "rmdnet/digits"; None for defaults alone.
    overrides: such as "noise.rate=0.4"; docs/noise.md and `dist-rmd train --help` say what there is.
    force: go on with the folder's run although what it learns has been configured anew.

    A run that was stopped goes on, a finished one is read back.  In a script that torchrun has started, every rank
    calls it alike, outside a process group of its own.  Ctrl-C saves after the step at hand, and raises Stopped.
    Raises a UserError (dist_rmd.errors) where the command would end with an exit code.

    >>> import dist_rmd
    >>> small = ["model.name=resnet10", "model.width=8", "data.per_class=20", "data.reader=memory"]
    >>> brief = ["stages=[classifier]", "task.epochs=2", "device=cpu", "name=brief"]
    >>> run = dist_rmd.train("rmdnet/digits", "noise.rate=0.4", *small, *brief)  # doctest: +ELLIPSIS
    runs/brief: classifier on 1 x CPU (fp32); 200 images, 10 classes, 40.0 % wrong labels
    ...
    >>> run.scores("classifier")[-1]["epoch"]
    2
    """
    plan = check(sections.parse(Path(config) if config else None, overrides), force)
    with contextlib.ExitStack() as held:
        try:
            peers = processes.start(plan.world, plan.config.dist.timeout)
            if not is_finished(plan, peers):
                check_places(plan, peers)
                run(plan, peers, held.enter_context(StopRequest()))
        finally:
            processes.stop()
    return FinishedRun(plan.folder.path)


def is_finished(plan: ResolvedRun, peers: RankGroup) -> bool:
    """Whether an earlier start has finished all of the plan's stages; if so, rank 0 prints their results."""
    test = plan.dataset.hashes["test"]
    finished = peers.gather(plan.world.leads and start.finished(plan.folder, plan.keys, test))[0]
    if finished and plan.world.leads:
        print(f"{plan.folder}: finished before, nothing to do")
        scores = {name: artefacts.load(plan.folder.artefact(name))["scores"] for name in plan.stages}
        outcomes = {n: StageOutcome(kind, outcome.result(kind, scores[n]), "before") for n, kind in plan.stages.items()}
        print("\n".join(outcome.lines(plan.folder, outcomes)))
    return finished


def check_places(plan: ResolvedRun, peers: RankGroup) -> None:
    """Try to write to every folder that the run will write to.  All ranks raise CannotCreate if rank 0 cannot.

    Without this check, a run could fail after days of training, when it writes its result.
    """

    def look() -> None:
        shared = {name: artefacts.shared_path(Path(plan.config.out), name, key) for name, key in plan.keys.items()}
        made = [path.parent for name, path in shared.items() if not artefacts.is_whole(path, plan.keys[name])]
        for place in (*plan.folder.places(plan.stages), *made):
            check_writable(place)

    _led(plan, peers, look)


def run(plan: ResolvedRun, peers: RankGroup, request: StopRequest) -> None:
    """Train all stages while holding the lock of the run folder; write the outcome to exit.json and the logs.

    request: notes signals; must stay active until all ranks have left the process group.
    Raises UserError.
    """
    with _claimed(plan, peers), rank_log(plan.folder, plan.world.rank), _tracked(plan) as tracking:
        _recorded(plan, peers, request, tracking)


@contextlib.contextmanager
def _claimed(plan: ResolvedRun, peers: RankGroup) -> Iterator[None]:
    """Hold the run folder's lock on rank 0.  All ranks raise CannotCreate when another process holds the lock."""
    with contextlib.ExitStack() as stack:
        _led(plan, peers, lambda: stack.enter_context(run_lock(plan.folder)))
        yield


@contextlib.contextmanager
def _tracked(plan: ResolvedRun) -> Iterator[Tracking]:
    """The trackers of the run, on rank 0.  They learn the run's end last of all, since trackers may be slow."""

    def warn(line: str) -> None:
        logger.warning(line)
        print(f"warning: {line}", file=sys.stderr, flush=True)

    trackers = {name: kind() for name, kind in plan.trackers.items()} if plan.world.leads else {}
    tracking = Tracking(plan.folder, trackers, warn)
    tracking.begin(plan.config.name, configuration.to_dict(plan.config))
    try:
        yield tracking
    finally:
        ended = plan.folder.read_exit()
        tracking.end(ended.status if ended else "failed")


def _led(plan: ResolvedRun, peers: RankGroup, work: Callable[[], object]) -> None:
    """Call `work` on rank 0.  If `work` raises CannotCreate, all ranks raise it."""
    refusal = None
    if plan.world.leads:
        try:
            work()
        except CannotCreate as error:
            refusal = str(error)
    if refusal := peers.gather(refusal)[0]:
        raise CannotCreate(refusal, agreed=True)


def _recorded(plan: ResolvedRun, peers: RankGroup, request: StopRequest, tracking: Tracking) -> None:
    """Train, and write the outcome to exit.json and the log.  Raises the UserError on which the ranks agree.

    After a failure the ranks compare their errors: when one rank dies, the others raise LostPeer, which names it.
    """
    position = Position()
    try:
        try:
            keys = _train_stages(plan, peers, request, tracking, position)
        except (SystemExit, KeyboardInterrupt) as left:  # raised by a library: signals do not raise here
            raise RuntimeError(f"{left!r} was to end the process") from left
    except Exception as raised:
        error = peers.explain(raised)
        ended = Exit(1, repr(error), plan.world.rank, stage=position.stage, step=position.clock.step)
        if isinstance(error, UserError):
            plan.folder.write_exit(replace(ended, code=error.code, reason=str(error), facts=error.facts))
            logger.error(error)
            if error is raised:
                raise
            raise error from raised
        plan.folder.write_exit(ended)
        logger.exception("a bug")
        raise
    if plan.world.leads:
        forced = tuple(name for name, key in plan.keys.items() if keys[name] != key)
        test = plan.dataset.hashes["test"]
        plan.folder.write_exit(Exit(0, "done", plan.world.rank, keys=plan.keys, forced=forced, measured_on=test))


def _headline(plan: ResolvedRun) -> str:
    world, config, labels = plan.world, plan.config, plan.labels
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU"
    return (
        f"{plan.folder}: {' -> '.join(config.stages)} on {world.size} x {device} ({plan.precision}); "
        f"{len(labels)} images, {plan.classes} classes{_wrong(labels)}"
    )


def _wrong(labels: LabelView) -> str:
    if labels.counts is None:
        return ", how many labels are wrong is not known"
    if not labels.noise_rate:
        return ""
    opened = f" ({100 * labels.counts['open'] / len(labels):.1f} % open set)" if labels.counts["open"] else ""
    return f", {100 * labels.noise_rate:.1f} % wrong labels{opened}"
