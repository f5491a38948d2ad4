import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.torchrun import ROOT

from tools.bench_parts.busy import busy


def state(process: int) -> str:
    """R where it computes, S where it waits; nothing where it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0].replace("Z", "")
    except FileNotFoundError:
        return ""


def becomes(process: int, expected: str) -> bool:
    deadline = time.monotonic() + 60
    while state(process) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return state(process) == expected


def test_others_compute_within_their_block_alone_and_end_with_an_error():
    seen = []

    def work() -> None:
        with busy(2) as others:
            seen.extend(process.pid for process in others.processes)
            for _ in range(2):
                assert becomes(seen[0], "S")
                with others:
                    assert all(becomes(process, "R") for process in seen)
            with others:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert [state(process) for process in seen] == ["", ""]


def test_others_end_when_nobody_can_end_them():
    code = "import time; from tools.bench_parts.busy import Busy; b = Busy(1); b.__enter__(); print(b.processes[0].pid)"
    owner = subprocess.Popen(
        [sys.executable, "-S", "-c", f"{code}; time.sleep(60)"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert owner.stdout is not None
    other = int(owner.stdout.readline())
    assert becomes(other, "R")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert becomes(other, "")
