"""python -m dist_rmd.train CONFIG.yaml [key=value ...]: train the stages of one run, on one process or on many.

This is the one place where configuration, data, stages, engine and evaluation meet.
"""

from dist_rmd.engine.launcher import LAUNCHER  # isort: skip  # before torch, whose import takes seconds

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record

from dist_rmd import artefacts, command_line, sections, terminal
from dist_rmd import config as configuration
from dist_rmd.command_line import Parser
from dist_rmd.data.labels import LabelView
from dist_rmd.dry_run import dry_run
from dist_rmd.engine import distributed, signals
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console, duration
from dist_rmd.engine.logs import logger, rank_log
from dist_rmd.engine.peers import Peers
from dist_rmd.engine.signals import StopRequest
from dist_rmd.errors import CannotCreate, ConfigError, UserError
from dist_rmd.files import check_writable
from dist_rmd.pipeline.recorded import RecordedSession, compute, measured_anew
from dist_rmd.pipeline.session import placed
from dist_rmd.plan import Plan, check
from dist_rmd.run import start
from dist_rmd.run.folder import Exit
from dist_rmd.run.lock import run_lock
from dist_rmd.stages.base import Computation, Training


@dataclass
class Position:
    """Where training stands, for whoever has to say how it ended."""

    stage: str = ""
    clock: Clock = field(default_factory=Clock)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see dist_rmd.errors), which <run folder>/exit.json repeats."""
    try:
        given = arguments(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        return _refused(error)
    with contextlib.nullcontext() if given.print_config else terminal.lasting():  # a configuration is there to be read
        return _start(given)


def _start(given: argparse.Namespace) -> int:
    try:
        config = sections.parse(given.config, given.overrides)
        replaced = configuration.repeated(given.overrides)
        if given.print_config:
            _warn(replaced)
            print(configuration.to_yaml(config), end="")
            return 0
        plan = check(config, given.force)
        _warn([*replaced, *sections.unread(config, given.overrides)])  # a mistake is one line, without these
    except UserError as error:
        return _refused(error)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # not under a shell, which may go while a run stays (nohup)
        signals.follow(LAUNCHER)
    try:
        peers = distributed.start(plan.world, config.dist.timeout)  # until here a signal simply ends the process
        if given.dry_run:
            _check_places(plan, peers)
            dry_run(plan, peers)
            return 0
        if peers.gather(plan.world.leads and start.finished(plan.folder, plan.keys, plan.dataset.hashes["test"]))[0]:
            if plan.world.leads:
                print(f"{plan.folder}: finished before, nothing to do")
            return 0
        _check_places(plan, peers)
        return _run(plan, peers)
    except UserError as error:
        _report(error, plan)
        return error.code
    finally:
        distributed.stop()


def train(plan: Plan, peers: Peers, request: StopRequest, position: Position) -> dict[str, str]:
    """Train every stage of the plan that no earlier run has finished; `position` is kept up to date.

    Returns the key of each stage's artefact.
    """
    config, world = plan.config, plan.world
    console = Console(world.rank, config.log.console_every, plan.folder)
    if world.leads:
        start.describe(plan.folder, config, world.size, str(world.device), plan.resolved)
        plan.labels.save(plan.folder.labels)
    source = plan.source()
    began = time.monotonic()
    console.say(_headline(plan))
    for change in plan.changes:
        console.say(f"changed since the last start: {change}")
    for note in plan.notes:
        console.say(f"note: {note}")
    keys: dict[str, str] = {}
    for name, stage_class in plan.stages.items():
        position.stage, position.clock = name, Clock()
        keys[name] = plan.key(name, keys)
        own = plan.folder.artefact(name)
        shared = artefacts.shared_path(Path(config.out), name, keys[name])
        found = world.leads and artefacts.find(own, shared, keys[name])
        if peers.gather(found)[0]:  # what each rank sees for itself may differ for a moment
            console.say(f"{name}: finished before, reusing {shared}")
            if world.leads:
                artefacts.adopt(own, shared)
            peers.gather(None)
            artefact = artefacts.load(own)
            if artefact.get("measured_on", plan.dataset.hashes["test"]) != plan.dataset.hashes["test"]:
                artefact = measured_anew(plan, name, artefact, source)
                console.say(f"{name}: measured anew, on these test images")
                if world.leads:
                    artefacts.keep(own, artefact)
        else:
            needs = [needed for needed in stage_class.needs(stage_class.scope(config)) if needed in keys]
            stage = placed(plan, name, {needed: artefacts.load(plan.folder.artefact(needed)) for needed in needs})
            if isinstance(stage, Computation):
                artefact = compute(plan, stage, source, request, console, keys[name])
            else:
                assert isinstance(stage, Training)
                session = RecordedSession(plan, stage, source, peers, request, console)
                position.clock = session.clock
                artefact = session.train(keys[name])
            keys[name] = artefact["key"]
            if world.leads:
                artefacts.save(own, artefacts.shared_path(Path(config.out), name, keys[name]), artefact)
        peers.gather(None)  # the next stage reads this one's artefact
    console.say(f"finished in {duration(time.monotonic() - began)}: {plan.folder}")
    return keys


def _run(plan: Plan, peers: Peers) -> int:
    """Train in the run folder, alone there and ready to stop.  Returns the exit code."""
    with StopRequest() as request:
        try:
            with _claimed(plan, peers), rank_log(plan.folder, plan.world.rank):
                return _recorded(plan, peers, request)
        finally:
            distributed.stop()


@contextlib.contextmanager
def _claimed(plan: Plan, peers: Peers) -> Iterator[None]:
    """Hold the run folder's lock on the leading rank.  Raises CannotCreate on all ranks when another run has it."""
    with contextlib.ExitStack() as stack:
        _led(plan, peers, lambda: stack.enter_context(run_lock(plan.folder)))
        yield


def _check_places(plan: Plan, peers: Peers) -> None:
    """Raise CannotCreate on all ranks where the run could not write something, perhaps only after its training."""

    def look() -> None:
        shared = {name: artefacts.shared_path(Path(plan.config.out), name, key) for name, key in plan.keys.items()}
        made = [path.parent for name, path in shared.items() if not artefacts.is_whole(path, plan.keys[name])]
        for place in (*plan.folder.places(plan.stages), *made):
            check_writable(place)

    _led(plan, peers, look)


def _led(plan: Plan, peers: Peers, work: Callable[[], object]) -> None:
    """Do `work` on the leading rank.  All ranks raise the CannotCreate that it ends with."""
    refusal = None
    if plan.world.leads:
        try:
            work()
        except CannotCreate as error:
            refusal = str(error)
    if refusal := peers.gather(refusal)[0]:
        raise CannotCreate(refusal, agreed=True)


def _recorded(plan: Plan, peers: Peers, request: StopRequest) -> int:
    """Train, and let exit.json, the log and the terminal say how it ended.  Returns the exit code."""
    position = Position()
    try:
        try:
            keys = train(plan, peers, request, position)
        except (SystemExit, KeyboardInterrupt) as left:  # a library's: requests to stop are only noted
            raise RuntimeError(f"{left!r} was to end the process") from left
    except Exception as raised:
        error = peers.explain(raised)
        ended = Exit(1, repr(error), plan.world.rank, stage=position.stage, step=position.clock.step)
        if isinstance(error, UserError):
            plan.folder.write_exit(replace(ended, code=error.code, reason=str(error), facts=error.facts))
            logger.error(error)
            _report(error, plan)
            return error.code
        plan.folder.write_exit(ended)
        logger.exception("a bug")
        raise
    if plan.world.leads:
        forced = tuple(name for name, key in plan.keys.items() if keys[name] != key)
        test = plan.dataset.hashes["test"]
        plan.folder.write_exit(Exit(0, "done", plan.world.rank, keys=plan.keys, forced=forced, measured_on=test))
    return 0


def _refused(error: UserError) -> int:
    """What can be said before it is known which ranks there are.  Returns the exit code."""
    if _is_first_here():
        _say(str(error))
    return error.code


def _warn(lines: Sequence[str]) -> None:
    for line in lines if _is_first_here() else ():
        print(f"warning: {line}", file=sys.stderr)


def _is_first_here() -> bool:
    """Of the processes on this machine, which all have the same to say."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def _report(error: UserError, plan: Plan) -> None:
    """One line on the terminal, from one rank if all of them have the same to say."""
    if error.agreed or plan.world.size == 1:
        if plan.world.leads:
            _say(str(error))
    else:
        _say(f"rank {plan.world.rank}: {error}")


def _say(line: str) -> None:
    print(f"error: {line}", file=sys.stderr, flush=True)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, checked but for its configuration.  Raises ConfigError."""
    parser = Parser(
        prog="dist-rmd train",
        description="Train the stages of one run.  Start it with torchrun or srun for several processes.  Started "
        "again, it goes on where it was.",
        epilog=f"Keys of CONFIG.yaml and of key=value:\n{configuration.help_text(sections.sections())}",
    )
    parser.add_configuration()
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, try each stage on two samples, write nothing"
    )
    parser.add_argument(
        "--force", action="store_true", help="go on with a run although what it learns has been configured anew"
    )
    given = parser.parse(argv)
    given.config, given.overrides = command_line.configuration(given.words)
    return given


def _headline(plan: Plan) -> str:
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


if __name__ == "__main__":
    code = terminal.run(record(main))  # record: torchrun reports the first failing rank's traceback
    signals.ignore()  # the outcome is settled
    if code:  # Python's own end takes torch seconds, and torchrun restarts, or a scheduler grants, no sooner
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
