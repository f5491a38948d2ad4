"""Saves checkpoints in children that die on the way.  A script of its own: only a process without threads may fork.

python -m support.checkpoint_crashes FOLDER KILLS

FOLDER/calls    a child dies at the k-th system call of its second save, for every k and several histories
FOLDER/kills    children that do nothing but save are killed with SIGKILL; what was found after each is printed
FOLDER/end      the process saves and ends, without waiting for the write
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from itertools import count
from pathlib import Path

import torch

from dist_rmd.engine.checkpoint import Checkpoints

DIED = 9


def in_a_child(work, *arguments):
    """Run `work` in a forked process -> its process number."""
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def die_at(call):
    """From now on, exit without any clean-up at call number `call` of those that change the disk."""
    left = call

    def dying(function):
        def wrapped(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(DIED)
            return function(*arguments, **options)

        return wrapped

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, dying(getattr(os, name)))


def save_twice(folder, keep, step, call):
    """Save "old" as step 1; then "new" as `step`, dying at `call`."""
    checkpoints = Checkpoints(folder, keep)
    checkpoints.save(1, {"which": "old"}, score=0.5)
    checkpoints.wait()
    die_at(call)
    checkpoints.save(step, {"which": "new"}, score=0.25)
    checkpoints.wait()


def calls(folder):
    """One folder FOLDER/keep-KEEP-step-STEP/CALL for each call; the last child survives."""
    for keep, step in ((1, 2), (1, 1), (2, 2)):
        for call in count():
            place = folder / f"keep-{keep}-step-{step}" / f"{call:02d}"
            code = os.waitstatus_to_exitcode(os.waitpid(in_a_child(save_twice, place, keep, step, call), 0)[1])
            assert code in (0, DIED), code
            if code == 0:
                break


def save_on_and_on(folder):
    checkpoints = Checkpoints(folder, keep=2)
    newest = checkpoints.load_newest()
    for step in count(newest["step"] + 1 if newest else 1):
        checkpoints.save(step, {"step": step, "w": torch.full((200_000,), float(step))})


def kills(folder, times):
    """Prints, as JSON, what was found after each kill: [step, all values equal to the step, files cut short]."""
    moments, found = random.Random(0), []
    for _ in range(times):
        child = in_a_child(save_on_and_on, folder)
        before = found[-1][0] if found else 1
        while max((int(path.name[5:13]) for path in folder.glob("step-*.json")), default=0) <= before:
            time.sleep(0.001)  # until it has saved something
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        cut = len(list(folder.glob(".*.tmp")))
        newest = Checkpoints(folder, keep=2).load_newest() or {"step": 0, "w": torch.zeros(1)}
        found.append([newest["step"], bool((newest["w"] == newest["step"]).all()), cut])
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, times = Path(sys.argv[1]), int(sys.argv[2])
    calls(folder / "calls")
    kills(folder / "kills", times)
    Checkpoints(folder / "end", keep=1).save(1, {"w": torch.ones(5_000_000)})
