#!/usr/bin/env python
"""Train as a SLURM job: `python -m dist_rmd.train CONFIG.yaml key=value ...` on every GPU of the job's nodes.

The job is requeued when it is preempted or its time is over, and goes on from its checkpoint under the same job id.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import submitit

from dist_rmd import sections
from dist_rmd.cluster import submission
from dist_rmd.cluster.options import Parser
from dist_rmd.cluster.state import State, follow, slurm_state
from dist_rmd.cluster.task import Task
from dist_rmd.errors import ConfigError, UserError

EPILOG = """\
Options of your own go before CONFIG.yaml or after it.  What the job says is in <run folder>/slurm.
Exit code: that of the job with --follow, else 0; 1 refused by SLURM, 2 wrong options or configuration.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        return launch(arguments(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code


def launch(options: argparse.Namespace) -> int:
    """Submit the job and say where it is.  Returns the exit code."""
    config = sections.parse(options.config, options.overrides)
    folder = Path(config.out) / config.name
    words = [*([str(options.config)] if options.config else []), *options.overrides]
    words += ["--force"] if options.force else []
    executor: submitit.LocalExecutor | submission.SlurmExecutor
    if options.local:
        executor = on_this_machine(options, folder / "slurm")
    else:
        name = options.name or config.name
        executor = submission.executor(options, folder / "slurm", name, options.nodes, tasks_per_node(options))
        if options.dry_run:
            print(submission.script(executor), end="")
            print(f"# each task: python -m dist_rmd.train {shlex.join(words)}")
            return 0
    if options.local:
        with _deaf(), _address():
            job = executor.submit(Task(words))
        look: Callable[[], State] = lambda: local_state(job)  # noqa: E731
    else:
        submission.warn_of_local_disk(config.out)
        with submission.submitting():
            job = executor.submit(Task(words))
        look = lambda: slurm_state(job.job_id)  # noqa: E731
    log = Path(os.path.relpath(job.paths.stdout))
    stop = f"pkill -TERM -P {job.job_id}" if options.local else f"scancel {job.job_id}"
    print(f"job     {job.job_id}: {options.nodes} x {tasks_per_node(options)} tasks, {folder}")
    print(f"log     {log}")
    print(f"curves  tensorboard --logdir {shlex.quote(str(folder))}")
    print(f"stop    {stop}", flush=True)
    if not options.follow:
        return 0
    try:
        return follow(look, log, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print(f"\ndetached: the job goes on, `tail -F {log}` shows its log, `{stop}` ends it")
        return 0


def on_this_machine(options: argparse.Namespace, folder: Path) -> submitit.LocalExecutor:
    """What starts the job's processes here, without SLURM."""
    if options.nodes != 1 or options.dry_run:
        raise ConfigError("--local: it is one machine, and there is no script: leave out --nodes and --dry-run")
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(
        timeout_min=options.time or submission.NEVER,
        tasks_per_node=tasks_per_node(options),
        gpus_per_node=options.gpus_per_node or 0,
        stderr_to_stdout=True,
        setup=[*submission.threads(options.cpus_per_task), *options.setup],
    )
    return executor


def tasks_per_node(options: argparse.Namespace) -> int:
    """One for each GPU, else as many as were asked for."""
    return options.gpus_per_node or options.tasks_per_node or 1


def local_state(job: submitit.Job[int]) -> State:
    """The same for a job on this machine, whose exit code is the largest of its processes'."""
    if not job.done():
        return State("RUNNING")
    try:
        code = max(job.results())
    except (submitit.core.utils.UncompletedJobError, OSError):  # its log says why
        code = 1
    return State(f"{'FAILED' if code else 'COMPLETED'}, exit code {code}", code)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """What is started in here hears neither ctrl-C nor the end of the terminal, as a job on a cluster does not."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _address() -> Iterator[None]:
    """What is started in here meets at a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with submitit.core.utils.environment_variables(MASTER_ADDR="127.0.0.1", MASTER_PORT=port):
        yield


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command line, and beneath them those of the site.  Raises ConfigError."""
    options = _parser().parse(argv)
    if options.gpus_per_node and options.tasks_per_node:
        raise ConfigError("--gpus-per-node and --tasks-per-node: there is one task for each GPU, leave one of them out")
    if options.config and "=" in options.config:
        options.overrides.insert(0, options.config)
        options.config = None
    options.config = options.config and Path(options.config)
    return options


def _parser() -> Parser:
    parser = Parser(
        prog="python launch/slurm.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yaml", help="what to train, as for `train`")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as noise.rate=0.4 or loss.name=gce")
    parser.add_argument("--name", help="the job's name (default: that of the run)")
    parser.add_argument("--force", action="store_true", help="as for python -m dist_rmd.train")
    parser.add_argument("--follow", action="store_true", help="show state and log until the end; ctrl-C leaves the job")
    parser.add_argument("--local", action="store_true", help="on this machine, without SLURM")
    parser.add_argument("--dry-run", action="store_true", help="print the job's script, submit and write nothing")
    parser.add_job_options()
    return parser


if __name__ == "__main__":
    sys.exit(main())
