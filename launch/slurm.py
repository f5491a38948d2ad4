#!/usr/bin/env python
"""Train as a SLURM job: `python -m dist_rmd.train CONFIG.yaml key=value ...` on every GPU of the job's nodes.

The job is requeued when it is preempted or its time is over, and goes on from its checkpoint under the same job id.
"""

import argparse
import contextlib
import difflib
import os
import re
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import submitit
import yaml

from dist_rmd import sections
from dist_rmd.cluster.state import State, follow, in_slurms_words, slurm_state
from dist_rmd.cluster.task import Task
from dist_rmd.config import Config
from dist_rmd.errors import ConfigError, UserError

SITE = ".config/dist_rmd/slurm.yaml"
"""options that hold for all jobs of a user, below the home folder"""
SIGNAL_BEFORE_END = 120
"""seconds before the time limit at which SLURM asks the job to stop"""
NEVER = 10**6
"""of anything that submitit counts down or waits for"""
OF_ONE_MACHINE = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay", "ramfs"}
TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")

EPILOG = f"""\
Each option can be given in ~/{SITE} for all jobs, such as `account: vision`; `setup` is a list there.
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
    executor: submitit.LocalExecutor | SlurmExecutor
    if options.local:
        executor = on_this_machine(options, folder / "slurm")
    else:
        executor = on_the_cluster(options, folder / "slurm", options.name or config.name)
    if options.dry_run:
        print(executor._make_submission_file_text(executor._submitit_command_str, ""), end="")
        print(f"# each task: python -m dist_rmd.train {shlex.join(words)}")
        return 0
    _warn_of_local_disk(config, options)
    if options.local:
        with _deaf(), _address():
            job = executor.submit(Task(words))
        look: Callable[[], State] = lambda: local_state(job)  # noqa: E731
    else:
        with _submittable():
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


class SlurmExecutor(submitit.SlurmExecutor):
    """submitit's, which can write a job's script where there is no SLURM, too."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def on_the_cluster(options: argparse.Namespace, folder: Path, name: str) -> SlurmExecutor:
    """What submits the job to SLURM.  Raises ConfigError where there is none."""
    if not options.dry_run and not shutil.which("sbatch"):
        raise ConfigError("sbatch is not in PATH: run this where jobs are submitted, or try --local or --dry-run")
    if options.time is None:
        raise ConfigError(f"--time is missing: how long the job may take, such as 12:00:00; also in ~/{SITE}")
    executor = SlurmExecutor(folder, max_num_timeout=NEVER)
    executor.update_parameters(
        job_name=name,
        time=options.time,
        nodes=options.nodes,
        ntasks_per_node=tasks_per_node(options),
        gpus_per_node=options.gpus_per_node,
        cpus_per_task=options.cpus_per_task,
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        constraint=options.constraint,
        comment=options.comment,
        signal_delay_s=SIGNAL_BEFORE_END,
        stderr_to_stdout=True,
        setup=[*threads(options), *(f"{command} || exit" for command in options.setup)],
        wckey=None,
        additional_parameters={"requeue": True} | ({"mem": options.mem} if options.mem else {}),
        # srun takes no --cpus-per-task from sbatch since SLURM 22.05.
        srun_args=[f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else None,
    )
    return executor


def on_this_machine(options: argparse.Namespace, folder: Path) -> submitit.LocalExecutor:
    """What starts the job's processes here, without SLURM."""
    if options.nodes != 1 or options.dry_run:
        raise ConfigError("--local: it is one machine, and there is no script: leave out --nodes and --dry-run")
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(
        timeout_min=options.time or NEVER,
        tasks_per_node=tasks_per_node(options),
        gpus_per_node=options.gpus_per_node or 0,
        stderr_to_stdout=True,
        setup=[*threads(options), *options.setup],
    )
    return executor


def tasks_per_node(options: argparse.Namespace) -> int:
    """One for each GPU, else as many as were asked for."""
    return options.gpus_per_node or options.tasks_per_node or 1


def threads(options: argparse.Namespace) -> list[str]:
    """The cores that were asked for are those to be used."""
    return [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{options.cpus_per_task}}}"] if options.cpus_per_task else []


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


@contextlib.contextmanager
def _submittable() -> Iterator[None]:
    """A refusal in SLURM's words; within another job, nothing of that one's is inherited."""
    inherited = [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_")) and name != "SLURM_CONF"]
    for name in inherited:
        del os.environ[name]
    try:
        yield
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"not submitted: {in_slurms_words(str(error))}") from None


def _warn_of_local_disk(config: Config, options: argparse.Namespace) -> None:
    kind = "" if options.local else filesystem(Path(config.out))
    if kind in OF_ONE_MACHINE:
        print(
            f"warning: out={config.out} is on {kind}, which machines seldom share: all of the job's must see it",
            file=sys.stderr,
        )


def filesystem(path: Path) -> str:
    """The type of the file system that a path, existing or not, is on, such as nfs4; "" where nobody knows."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    places = {Path(mount[1].replace("\\040", " ")): mount[2] for mount in mounts}  # of two on one place, the later
    whole = path.resolve()
    return next((places[place] for place in (whole, *whole.parents) if place in places), "")


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command line, and beneath them those of the site.  Raises ConfigError."""
    parser = _parser()
    options = parser.parse_intermixed_args([*_site(Path.home() / SITE, parser), *argv])
    if options.gpus_per_node and options.tasks_per_node:
        raise ConfigError("--gpus-per-node and --tasks-per-node: there is one task for each GPU, leave one of them out")
    if options.config and "=" in options.config:
        options.overrides.insert(0, options.config)
        options.config = None
    options.config = options.config and Path(options.config)
    return options


def _site(path: Path, parser: "Parser") -> list[str]:
    """The options in a file, as words of a command line."""
    try:
        given = yaml.load(path.read_text(), yaml.BaseLoader) or {}  # all strings: YAML takes 12:00:00 for a number
    except FileNotFoundError:
        return []
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: expected lines such as `account: vision`")
    words = []
    for name, value in given.items():
        if name not in parser.site_options:
            near = difflib.get_close_matches(name, parser.site_options, 1)
            raise ConfigError(f"{path}: unknown option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        words += [f"--{name}={one}" for one in (value if isinstance(value, list) else [value])]
    try:
        parser.parse_intermixed_args(words)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return words


class Parser(argparse.ArgumentParser):
    """A mistake is one line, raised as ConfigError."""

    site_options: tuple[str, ...] = ()
    """those that a site may set"""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


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
    site: list[str] = []

    def option(name: str, text: str, **settings: Any) -> None:
        parser.add_argument(f"--{name}", help=text, **settings)
        site.append(name)

    number: Any = {"type": _positive, "metavar": "N"}
    option("nodes", "machines (default 1)", default=1, **number)
    option("gpus-per-node", "GPUs of each, with one task for each GPU", **number)
    option("tasks-per-node", "tasks on each, where there are no GPUs (default 1)", **number)
    option("cpus-per-task", "cores for each task, also set as OMP_NUM_THREADS unless that is set", **number)
    option("mem", "memory on each machine, such as 64G", metavar="SIZE")
    option("time", "until it is requeued, in SLURM's formats, such as 12:00:00 or 1-12 or 90", type=_minutes)
    option("partition", "as for sbatch; so are the next four", metavar="NAME")
    option("account", "whom it is charged to", metavar="NAME")
    option("qos", "quality of service", metavar="NAME")
    option("constraint", "features the machines must have", metavar="LIST")
    option("comment", "free text", metavar="TEXT")
    option("setup", "a line for the shell before training, such as 'module load cuda'; repeatable", metavar="CMD",
           action="append", default=[])  # fmt: skip
    parser.site_options = tuple(site)
    parser.add_argument("--name", help="the job's name (default: that of the run)")
    parser.add_argument("--force", action="store_true", help="as for python -m dist_rmd.train")
    parser.add_argument("--follow", action="store_true", help="show state and log until the end; ctrl-C leaves the job")
    parser.add_argument("--local", action="store_true", help="on this machine, without SLURM")
    parser.add_argument("--dry-run", action="store_true", help="print the job's script, submit and write nothing")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _minutes(text: str) -> int:
    """SLURM's minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s -> minutes, rounded up."""
    if not TIME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of SLURM's formats: minutes, minutes:seconds, hours:minutes:seconds, days-hours, "
            "days-hours:minutes, days-hours:minutes:seconds"
        )
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    largest = 3600 if days or len(parts) == 3 else 60
    seconds = 86400 * int(days or 0) + sum(part * largest // 60**i for i, part in enumerate(parts))
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all")
    return -(-seconds // 60)


if __name__ == "__main__":
    sys.exit(main())
