"""Processes that start in hundredths of a second: forked from one that has imported torch and dist_rmd.

A fresh interpreter takes seconds for these imports, and torchrun as many again.  `ranks` and `command` run a module as
`python -m` does: with arguments, environment, folder, output and exit code of its own.  What a test says about the
start of an interpreter, about torchrun or about the death of processes needs the real ones: support/torchrun.py.
"""

import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from support.torchrun import ROOT, child_environment

HERE = "127.0.0.1"
GRACE = 10.0
"""seconds for the other ranks to end when one has failed"""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["support.imports"])


def ranks(
    number: int, module: str, *arguments: object, env: Mapping[str, str] | None = None, deadline: float = 120
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` on so many ranks, for gloo on this machine -> exit code and output of all of them.

    The exit code is that of the rank that failed first; the others are then asked to stop, as torchrun does.
    """
    store = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)  # served here, as by torchrun
    group = {
        "MASTER_ADDR": HERE, "MASTER_PORT": str(store.port), "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    with tempfile.NamedTemporaryFile("r") as output, _ended() as processes:
        for rank in range(number):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment = {**group, **place, **(env or {})}
            processes.append(_start(module, arguments, environment, ROOT, output.name, output.name))
        code = _wait(processes, deadline, Path(output.name))
        return subprocess.CompletedProcess([module, *map(str, arguments)], code, output.read())


def on_ranks(number: int, name: str, *arguments: object, deadline: float = 120) -> str:
    """Run support/ranks/<name>.py on so many ranks and return its output; a failure shows the whole output."""
    done = ranks(number, f"support.ranks.{name}", *arguments, deadline=deadline)
    assert done.returncode == 0, done.stdout
    return done.stdout


def command(
    module: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    deadline: float = 120,
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` in the folder `cwd` -> its exit code, standard output and standard error."""
    with tempfile.NamedTemporaryFile("r") as output, tempfile.NamedTemporaryFile("r") as errors, _ended() as processes:
        processes.append(_start(module, arguments, env or {}, cwd, output.name, errors.name))
        code = _wait(processes, deadline, Path(errors.name))
        return subprocess.CompletedProcess([module, *map(str, arguments)], code, output.read(), errors.read())


def _start(
    module: str, arguments: Sequence[object], env: Mapping[str, str], cwd: Path, stdout: str, stderr: str
) -> ForkServerProcess:
    environment = {**child_environment(OMP_NUM_THREADS="1"), **env}
    words = (module, [*map(str, arguments)], environment, str(cwd), stdout, stderr)
    process = _context.Process(target=_run, args=words)
    with pytest.MonkeyPatch.context() as patch:  # for the process that all are forked from, if it does not run yet
        for name, value in child_environment(OMP_NUM_THREADS="1").items():
            patch.setenv(name, value)
        process.start()
    return process


def _run(module: str, words: list[str], environment: dict[str, str], cwd: str, stdout: str, stderr: str) -> None:
    """What the forked process does."""
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate((stdout, stderr), start=1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _wait(processes: Sequence[ForkServerProcess], seconds: float, said: Path) -> int:
    """The exit code of the process that failed first, 0 for none.  What outlasts the deadline fails the test."""
    deadline, code = time.monotonic() + seconds, 0
    running = {process.sentinel: process for process in processes}
    while running:
        ended = connection.wait([*running], max(0, deadline - time.monotonic()))
        assert ended or code, f"still running after {seconds} s:\n{said.read_text()}"
        if not ended:
            return code
        for sentinel in running.keys() & {*ended}:
            process = running.pop(sentinel)
            process.join()
            if process.exitcode and not code:
                code, deadline = process.exitcode, time.monotonic() + GRACE
                for other in running.values():
                    other.terminate()
    return code


@contextlib.contextmanager
def _ended() -> Iterator[list[ForkServerProcess]]:
    """A list of processes, of which none is left at the end, nor anything that they have started."""
    processes: list[ForkServerProcess] = []
    try:
        yield processes
    finally:
        for process in processes:
            assert process.pid
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
