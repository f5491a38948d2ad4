"""Small runs as jobs of a real SLURM, disturbed and followed to their ends."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dist_rmd.cluster.state import follow, scontrol, slurm_state
from support import small
from support.torchrun import ROOT, is_held, wait_for

HELD = "kind=SIGSTOP,rank=0,step=4"
"""a fault: the first rank sleeps in the middle of its fifth step, until a signal wakes it"""


def words(data: Path, out: Path, *more: str) -> list[str]:
    """The command line of a small run, its options first."""
    return [*more, *small.RECIPE, f"data.path={data}", f"out={out}", "name=run", "stages=[classifier]"]


def finished(*command: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    """A program that has run in the project's folder, where `python` is the tests' own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "DIST_RMD_FAULT": fault}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


def run(*command: str, fault: str = "") -> str:
    """What a program says that must not fail."""
    done = finished(*command, fault=fault)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def launched(data: Path, out: Path, *more: str, fault: str = "") -> str:
    """What launch/slurm.py says of a run on two nodes."""
    return run("python", "launch/slurm.py", "--nodes=2", "--time=30", *words(data, out), *more, fault=fault)


def submitted(data: Path, out: Path, *more: str, fault: str = "") -> str:
    """The id of such a job."""
    (job,) = re.findall(r"^job +(\d+): ", launched(data, out, *more, fault=fault), re.MULTILINE)
    return job


def wait_until_held(folder: Path) -> None:
    """The run in the folder has come to HELD."""
    lock = folder / "run.lock"
    wait_for(lambda: lock.exists() and lock.read_text() and is_held(json.loads(lock.read_text())["pid"]), 240)


def signalled(job: str, signal: str) -> None:
    """Let SLURM send a signal to all processes of a job, of which one sleeps."""
    run("scancel", f"--signal={signal}", job)
    run("scancel", "--signal=CONT", job)


def log_of(job: str, out: Path) -> Path:
    """What the first task of such a job says."""
    return out / "run" / "slurm" / f"{job}_0_log.out"


def followed(job: str, log: Path) -> tuple[int, list[str]]:
    """Exit code and what is said of a job until its end."""
    said: list[str] = []
    return follow(lambda: slurm_state(job), log, said.append), said


def exit_code(job: str) -> str:
    """As SLURM has it: code:signal."""
    return scontrol("show", "job", job)[0]["ExitCode"]


@contextlib.contextmanager
def reconfigured(old: str, new: str) -> Iterator[None]:
    """Within it, the cluster has another line in its configuration."""
    conf = Path(os.environ["SLURM_CONF"])
    before = conf.read_text()
    assert old in before
    conf.write_text(before.replace(old, new))
    run("scontrol", "reconfigure")
    try:
        yield
    finally:
        conf.write_text(before)
        run("scontrol", "reconfigure")
