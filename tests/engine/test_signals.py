"""Requests to stop, with real signals to real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support.torchrun import ROOT

from dist_rmd.engine.signals import SIGNALS, StopRequest

FOLLOWER = """
import sys, time
from dist_rmd.engine import signals
signals.POLL, signals.GRACE = 0.05, float(sys.argv[2])
with signals.StopRequest() as request:
    signals.follow(int(sys.argv[1]))
    print("following", flush=True)
    while not request.signal:
        time.sleep(0.01)
    print("asked by", request.signal, flush=True)
    if sys.argv[3] == "stuck":
        time.sleep(60)
        print("not stopped", flush=True)
"""
LAUNCHER = (
    "import os, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], str(os.getpid()), *sys.argv[2:]])"
)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_once_or_many_times(number):
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert request.signal == 0
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), number)
        assert request.signal == number
    assert signal.getsignal(number) == before


def test_what_the_process_was_started_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.signal == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_forked_child_dies_of_the_signal_and_the_parent_goes_on(number):
    start = "import os, signal, time; from dist_rmd.engine.signals import StopRequest\n"
    script = f"""{start}
with StopRequest() as request:
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(tell, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    os.kill(child, {int(number)})
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status), request.signal)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == [str(int(number)), "0"], done.stderr


def test_after_the_outcome_is_settled_none_of_them_ends_the_process():
    script = """
import os
from dist_rmd.engine import signals
signals.ignore()
for number in signals.SIGNALS:
    os.kill(os.getpid(), number)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def followed(grace: float, manner: str) -> tuple[list[str], float]:
    """Kill the launcher of a process that follows it -> what that says until it is gone, and the seconds of that."""
    command = [sys.executable, "-c", LAUNCHER, FOLLOWER, str(grace), manner]
    launcher = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout
    assert launcher.stdout.readline() == "following\n"
    launcher.kill()
    killed = time.monotonic()
    said = launcher.stdout.readlines()  # ends when the follower does, which has the other end
    launcher.wait()
    return said, time.monotonic() - killed


def test_the_death_of_the_launcher_is_a_request_to_stop():
    said, _ = followed(grace=30, manner="leaves")
    assert said == [f"asked by {int(signal.SIGTERM)}\n"]


def test_a_process_that_cannot_stop_does_not_outlive_its_launcher():
    said, seconds = followed(grace=0.5, manner="stuck")
    assert said == [f"asked by {int(signal.SIGTERM)}\n"]
    assert seconds > 0.5
