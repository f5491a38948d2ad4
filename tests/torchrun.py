"""Run code on several real processes: torchrun with gloo on this machine, one thread a process, a hard deadline."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def torchrun(ranks: int, *arguments: str, deadline: float = 120, env: dict[str, str] | None = None):
    """`torchrun --nproc_per_node=ranks ARGUMENTS` from the project's root -> the finished process with its output.

    A run that outlasts `deadline` seconds is killed with all its children and fails the test.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [*launcher, *arguments]
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | (env or {})
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"still running after {deadline} s:\n{output}") from None
    return subprocess.CompletedProcess(command, process.returncode, output)


def on_ranks(ranks: int, script: Path, *arguments: object, deadline: float = 120) -> str:
    """Run a Python file on `ranks` processes and return its output; a failure shows the whole output."""
    done = torchrun(ranks, str(script), *map(str, arguments), deadline=deadline)
    assert done.returncode == 0, done.stdout
    return done.stdout
