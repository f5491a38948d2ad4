"""torchrun itself, with gloo on this machine, one thread a process and a hard deadline; and what processes are doing.

support/forked.py starts ranks in a hundredth of the time, for tests that do not speak of torchrun and of signals.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dist_rmd.distributed.launcher import on_this_machine

ROOT = Path(__file__).resolve().parents[2]


def child_environment(**variables: str) -> dict[str, str]:
    """For a process that imports dist_rmd and support from this checkout: the caller's environment and `variables`."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | variables


class Launched:
    """torchrun that has been started; `output` is what it and its workers said, once `finish` has returned."""

    output = ""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process
        self.ranks: list[int] = []

    def workers(self, ranks: int) -> list[int]:
        """The workers' process numbers in the order of ranks, as soon as there are so many."""

        def find() -> list[int]:
            pids = [
                int(pid)
                for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            ]
            ranks_of = {pid: rank for pid in pids if (rank := rank_of(pid)) is not None}
            return sorted(ranks_of, key=lambda pid: ranks_of[pid])

        self.ranks = wait_for(lambda: len(found := find()) == ranks and found, 60)
        return self.ranks

    def finish(self, deadline: float = 120) -> subprocess.CompletedProcess[str]:
        """Wait for its end.  A run that outlasts `deadline` seconds fails the test."""
        try:
            self.output, _ = self.process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            self.output, _ = self.process.communicate()
            raise AssertionError(f"still running after {deadline} s:\n{self.output}") from None
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, self.output)

    def kill(self) -> None:
        """kill -9 of everything; torchrun gives each worker a session of its own."""
        for pid in (self.process.pid, *self.ranks, *descendants(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def launched(
    ranks: int, *arguments: str, options: Sequence[str] = (), env: dict[str, str] | None = None
) -> Iterator[Launched]:
    """`torchrun --nproc_per_node=ranks OPTIONS ARGUMENTS` from the project's root; killed at the end if need be."""
    launcher = [sys.executable, "-m", "torch.distributed.run", *on_this_machine(ranks), *options]
    process = subprocess.Popen(
        [*launcher, *arguments],
        cwd=ROOT,
        env=child_environment(OMP_NUM_THREADS="1") | (env or {}),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    run = Launched(process)
    try:
        yield run
    finally:
        run.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def torchrun(
    ranks: int,
    *arguments: str,
    options: Sequence[str] = (),
    deadline: float = 120,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`torchrun --nproc_per_node=ranks OPTIONS ARGUMENTS` -> the finished process with its output."""
    with launched(ranks, *arguments, options=options, env=env) as run:
        return run.finish(deadline)


def wait_for(condition: Callable[[], object], seconds: float):
    """What `condition` returns, as soon as that is true; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def rank_of(pid: int) -> int | None:
    """The RANK in a process's environment."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(entry[5:]) for entry in entries if entry.startswith(b"RANK=")), None)


def descendants(pid: int) -> list[int]:
    """The processes that a process and its children have started and that still run."""
    with contextlib.suppress(OSError):
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [*children, *(below for child in children for below in descendants(child))]
    return []


def state(pid: int) -> dict[str, str]:
    """/proc/<pid>/status, {} when there is no such process (a dead one that nobody waits for counts as none)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {} if status["State"].startswith("Z") else status


def is_held(pid: int) -> bool:
    """SIGSTOP has arrived."""
    return state(pid).get("State", "").startswith("T")


def awaits(pid: int, number: int) -> bool:
    """The signal was sent to the process, which has not seen it yet."""
    return bool(int(state(pid).get("ShdPnd", "0"), 16) >> (number - 1) & 1)
