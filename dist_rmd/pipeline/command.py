"""The command line of training: `dist-rmd train`, `python -m dist_rmd.train`."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.errors import record

from dist_rmd import config as configuration
from dist_rmd.cli import command_line, terminal
from dist_rmd.cli.command_line import Parser
from dist_rmd.config import sections
from dist_rmd.distributed import processes
from dist_rmd.distributed.launcher import LAUNCHER
from dist_rmd.engine import signals
from dist_rmd.engine.signals import StopRequest
from dist_rmd.errors import ConfigError, UserError
from dist_rmd.pipeline import runner
from dist_rmd.pipeline.dry_run import dry_run
from dist_rmd.pipeline.resolved import ResolvedRun, check


def command() -> None:
    """Run the command line, then end the process with its exit code."""
    code = terminal.run(record(main))  # with record, torchrun shows the traceback of the rank that failed first
    signals.ignore()  # the outcome is settled
    if code:  # Python's orderly end takes seconds with torch; torchrun's restart and SLURM's requeue wait for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.  Returns the exit code (see dist_rmd.errors), which exit.json in the run folder repeats."""
    try:
        given = arguments(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        return _refused(error)
    # A training outlives whoever reads its output; --print-config ends with its reader (`| head`).
    with contextlib.nullcontext() if given.print_config else terminal.lasting():
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
        _warn([*replaced, *sections.unread(config, given.overrides)])  # only after all checks: an error stays one line
    except UserError as error:
        return _refused(error)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # only torchrun's death ends a run; a shell may end before it (nohup)
        signals.follow(LAUNCHER)
    with contextlib.ExitStack() as held:
        try:
            peers = processes.start(plan.world, config.dist.timeout)
            if given.dry_run:
                runner.check_places(plan, peers)
                dry_run(plan, peers)
            elif not runner.is_finished(plan, peers):
                runner.check_places(plan, peers)
                # A signal that comes earlier ends the process at once.  From here on, signals are only noted, until
                # all ranks have left the process group.
                runner.run(plan, peers, held.enter_context(StopRequest()))
            return 0
        except UserError as error:
            _report(error, plan)
            return error.code
        finally:
            processes.stop()


def _refused(error: UserError) -> int:
    """Print an error that was found before the ranks know of each other.  Returns the exit code."""
    if _is_first_here():
        _say(str(error))
    return error.code


def _warn(lines: Sequence[str]) -> None:
    for line in lines if _is_first_here() else ():
        print(f"warning: {line}", file=sys.stderr)


def _is_first_here() -> bool:
    """Whether this process is the first on its machine: all of them find the same error, and one prints it."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"


def _report(error: UserError, plan: ResolvedRun) -> None:
    """Print one line: from rank 0 alone when all ranks raise the same error, else from this rank."""
    if error.agreed or plan.world.size == 1:
        if plan.world.leads:
            _say(str(error))
    else:
        _say(f"rank {plan.world.rank}: {error}")


def _say(line: str) -> None:
    print(f"error: {line}", file=sys.stderr, flush=True)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; the configuration itself is not read yet.  Raises ConfigError."""
    asked = any(word.startswith(("-h", "--h")) for word in argv)  # the text of all keys takes a while
    keys = configuration.help_text(sections.sections()) if asked else ""
    parser = Parser(
        prog="dist-rmd train",
        description="Train the stages of one run.  Start it with torchrun or srun for several processes.  Started "
        "again, it goes on where it was.",
        epilog=f"Keys of CONFIG.yaml and of key=value:\n{keys}",
    )
    parser.add_configuration()
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, try some steps of each stage, estimate time, memory and disk; write nothing",
    )
    parser.add_argument(
        "--force", action="store_true", help="resume the run although its configuration now trains something else"
    )
    given = parser.parse(argv)
    given.config, given.overrides = command_line.configuration(given.words)
    return given
