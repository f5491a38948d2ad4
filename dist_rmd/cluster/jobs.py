"""Submits a run as a SLURM job, a job array or processes of this machine, and follows the job to its end."""

import argparse
import contextlib
import functools
import os
import re
import shlex
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import submitit
from rich.console import Console
from rich.text import Text

from dist_rmd.cluster import submission
from dist_rmd.cluster.state import State, array_states, follow, follow_all, slurm_state
from dist_rmd.cluster.task import NUMBER, SlurmTask, numbered
from dist_rmd.config import Config, sections
from dist_rmd.errors import ConfigError
from dist_rmd.files import check_writable
from dist_rmd.run.folder import slurm_folder


def launch(options: argparse.Namespace) -> int:
    """Submit the job or job array, print its number and the path of its log, and with --follow wait for its end.

    Returns the exit code.
    """
    numbers = options.array.numbers if options.array else []
    config = checked(options, numbers)
    folder = Path(config.out) if numbers else Path(config.out) / config.name
    logs = slurm_folder(folder)
    words = [*([str(options.config)] if options.config else []), *options.overrides]
    words += ["--force"] if options.force else []
    ranks = ranks_per_node(options)
    task = SlurmTask(words, agent_of=ranks if options.torchrun else None)
    if options.local:
        local = on_this_machine(options, logs)
        with _deaf(), _address():
            job = local.submit(task)
        look: Callable[[], State] = lambda: local_state(job)  # noqa: E731
        number, stop = job.job_id, f"pkill -TERM -P {job.job_id}"
    else:
        executor = on_the_cluster(options, logs, f"{config.name}, ..." if numbers else config.name, ranks)
        if options.dry_run:
            print(submission.script(executor), end="")
            launcher = f"torchrun --nnodes={options.nodes} --nproc-per-node={ranks}" if options.torchrun else "python"
            print(f"# each task: {launcher} -m dist_rmd.train {shlex.join(words)}")
            return 0
        check_writable(logs)
        submission.warn_of_local_disk(config.out)
        with submission.submitting():
            number = submission.submit_array(executor, task, numbers) if numbers else executor.submit(task).job_id
        look = lambda: slurm_state(number)  # noqa: E731
        stop = f"scancel {number}"
    log = Path(os.path.relpath(logs)) / f"{number}{'_<element>' if numbers else ''}_0_log.out"
    array = f"{len(numbers)} elements of " if numbers else ""
    print(f"job     {number}: {array}{options.nodes} x {ranks} {'ranks' if options.torchrun else 'tasks'}, {folder}")
    print(f"log     {log}")
    print(f"curves  tensorboard --logdir {shlex.quote(str(folder))}")
    print(f"stop    {stop}", flush=True)
    if not options.follow:
        return 0
    try:
        if numbers:
            return watch_array(number, numbers, log.parent)
        return watch(number, look, log)
    except KeyboardInterrupt:
        print(f"\ndetached: the job goes on, `tail -F {log}` shows its log, `{stop}` ends it")
        return 0


def watch(number: str, look: Callable[[], State], log: Path) -> int:
    """Show a job's log, and its state as the last line of a terminal, until it has ended.  Returns its exit code."""
    console = Console()
    with console.status("") as status:  # shows nothing without a terminal

        def shown() -> State:
            state = look()
            status.update(Text(f"job {number}: {state.text}"))
            return state

        code = follow(shown, log, _say(console))
    if code:
        print(f"log     {log}; those of the other tasks are beside it")
    return code


def watch_array(number: str, numbers: Sequence[int], logs: Path) -> int:
    """Show the states of an array's elements until all have ended.  Returns the largest of their exit codes."""
    console = Console()
    ended: dict[str, State] = {}
    with console.status("") as status:

        def shown() -> dict[str, State]:
            states = array_states(number, numbers) | ended  # SLURM forgets ended elements
            ended.update({name: state for name, state in states.items() if state.code is not None})
            kinds = Counter(re.split(r"\W", state.text)[0] for state in states.values())
            status.update(Text(f"job {number}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())))
            return states

        return follow_all(shown, lambda element: logs / f"{element}_0_log.out", _say(console))


def _say(console: Console) -> Callable[[str], None]:
    return functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)


def checked(options: argparse.Namespace, numbers: Sequence[int]) -> Config:
    """Read the configuration of the job, or of a job array's first element.

    Raises ConfigError, also if all elements of a job array would write into one folder.
    """

    def config(number: int | None) -> Config:
        path, *overrides = numbered([str(options.config or ""), *options.overrides], number)
        return sections.parse(Path(path) if path else None, overrides)

    if not numbers:
        if any(NUMBER in word for word in options.overrides):
            raise ConfigError(f"{NUMBER} stands for the number of a job array's element: it needs --array")
        return config(None)
    first, last = config(numbers[0]), config(numbers[-1])
    if len(numbers) > 1 and (first.out, first.name) == (last.out, last.name):
        raise ConfigError(
            f"--array: all elements would write into {first.out}/{first.name}: put {NUMBER}, which stands for an "
            f"element's number, into name=, such as name={first.name}-{NUMBER}"
        )
    return first


def on_the_cluster(options: argparse.Namespace, logs: Path, name: str, ranks: int) -> submission.SlurmExecutor:
    """Return the executor that submits the job to SLURM.  Raises ConfigError where there is no SLURM."""
    tasks, processes = ranks, 1
    if options.torchrun:  # each agent has the cores of all its ranks
        tasks, processes = 1, ranks
        options.cpus_per_task = options.cpus_per_task and options.cpus_per_task * ranks
    array = options.array and options.array.text
    return submission.executor(
        options, logs, options.name or name, options.nodes, tasks, processes=processes, array=array
    )


def on_this_machine(options: argparse.Namespace, folder: Path) -> submitit.LocalExecutor:
    """Return the executor that starts the job's processes on this machine, without SLURM.  Raises ConfigError."""
    if options.nodes != 1 or options.dry_run or options.torchrun or options.array:
        raise ConfigError(
            "--local: it is one machine, and there is no script: leave out --nodes, --dry-run, --torchrun and --array"
        )
    executor = submitit.LocalExecutor(folder)
    executor.update_parameters(
        timeout_min=options.time or submission.NEVER,
        tasks_per_node=ranks_per_node(options),
        gpus_per_node=options.gpus or 0,
        stderr_to_stdout=True,
        setup=[*submission.threads(options.cpus_per_task), *options.setup],
    )
    return executor


def ranks_per_node(options: argparse.Namespace) -> int:
    """Number of ranks on each node: one for each GPU; without GPUs, --tasks-per-node."""
    return options.gpus or options.tasks_per_node or 1


def local_state(job: submitit.Job[int]) -> State:
    """State of a job on this machine; its exit code is the largest exit code of its processes."""
    if not job.done():
        return State("RUNNING")
    try:
        code = max(job.results())
    except (submitit.core.utils.UncompletedJobError, OSError):  # a process died; the job's log says why
        code = 1
    return State(f"{'FAILED' if code else 'COMPLETED'}, exit code {code}", code)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Let processes started in this context ignore ctrl-C and the end of the terminal, like a job on a cluster."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _address() -> Iterator[None]:
    """Let processes started in this context rendezvous at a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with submitit.core.utils.environment_variables(MASTER_ADDR="127.0.0.1", MASTER_PORT=port):
        yield
