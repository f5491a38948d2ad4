"""Runs the tasks of a sweep on this machine: several side by side, each with its share of the cores and a GPU."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dist_rmd.distributed.launcher import on_this_machine, torchrun_command
from dist_rmd.engine.console import duration
from dist_rmd.engine.signals import StopRequest
from dist_rmd.errors import CannotCreate
from dist_rmd.sweep.tasks import RunSpec, State, with_needs

POLL = 0.3
"""seconds between two looks at the running tasks"""
PR_SET_PDEATHSIG = 1
"""of Linux's prctl: the signal that a process gets when its parent dies"""


@dataclass
class Running:
    """A task that has been started."""

    task: RunSpec
    slot: int
    process: subprocess.Popen
    began: float


class Slots:
    """`jobs` slots of `ranks` processes each.

    Slots divide the cores of this process among them, and take turns on its GPUs.
    say: called with a line when a task begins or ends.  show: called repeatedly with the running tasks.
    """

    def __init__(self, jobs: int, ranks: int, say: Callable[[str], None], show: Callable[[Sequence[Running]], None]):
        self.jobs, self.ranks, self.say, self.show = jobs, ranks, say, show
        self.cores = sorted(os.sched_getaffinity(0))
        visible, count = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","), torch.cuda.device_count()
        self.gpus = visible if len(visible) == count else [str(index) for index in range(count)]

    def run(self, tasks: Sequence[RunSpec], again: bool = False) -> int:
        """Run `tasks` and the tasks that they need, each once.  Returns 0, or the number of a stop signal.

        Finished tasks are skipped.  Tasks whose loss was not finite are skipped, too, unless `again`.  A failed task
        skips only the tasks that depend on it.  A task that another sweep is running is left to that sweep, and waited
        for.  A signal stops the running tasks, which save.
        """
        waiting, done, lost = with_needs(tasks), set[RunSpec](), set[RunSpec]()
        running: list[Running] = []
        with StopRequest() as request:
            while (waiting or running) and not request.signal:
                for task in list(waiting):
                    if len(running) == self.jobs:
                        break
                    if task.needs and task.needs not in done | lost:
                        continue
                    state = task.state
                    if state == "busy":
                        continue
                    waiting.remove(task)
                    if state == "done":
                        done.add(task)
                    elif task.needs in lost or (state == "diverged" and not again):
                        lost.add(task)
                    else:
                        running.append(self._start(task, {one.slot for one in running}))
                self.show(running)
                time.sleep(POLL)
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    outcome = self._ended(one, left=len(waiting) + len(running))
                    if outcome == "busy":  # another sweep started the same task at the same moment
                        waiting.append(one.task)
                    else:
                        (done if outcome == "done" else lost).add(one.task)
            for one in running:
                one.process.send_signal(signal.SIGTERM)
            for one in running:
                one.process.wait()
                self._ended(one, left=len(waiting) + len(running))
        self.show([])
        return request.signal

    def share(self, slot: int) -> tuple[list[int], list[str]]:
        """Cores and GPUs of one slot.  With fewer GPUs than slots, several slots share a GPU."""
        first, count = slot * self.ranks, len(self.gpus)
        gpus = [self.gpus[place % count] for place in range(first, first + self.ranks)] if count else []
        return self.cores[slot :: self.jobs] or self.cores, list(dict.fromkeys(gpus))

    def _start(self, task: RunSpec, taken: set[int]) -> Running:
        slot = min(set(range(self.jobs)) - taken)
        words = [str(task.file), *task.overrides]
        command = [sys.executable, "-m"]
        if self.ranks > 1:
            command += ["torch.distributed.run", *torchrun_command(words, *on_this_machine(self.ranks))]
        else:
            command += ["dist_rmd.train", *words]
        cores, gpus = self.share(slot)
        environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})}
        libc = ctypes.CDLL(None)

        def prepare() -> None:
            os.sched_setaffinity(0, cores)  # train takes its numbers of threads from it
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # no orphans

        try:
            task.log.parent.mkdir(parents=True, exist_ok=True)
            with open(task.log, "a") as log:
                # A session of its own: Ctrl-C at the terminal reaches this process alone, which passes it on.
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    start_new_session=True, preexec_fn=prepare,
                )  # fmt: skip
        except OSError as error:
            raise CannotCreate(f"{task.log}: cannot be written ({error.strerror})") from None
        self.say(f"started  {task.name}")
        return Running(task, slot, process, time.monotonic())

    def _ended(self, one: Running, left: int) -> State:
        """Report how a task ended, and how many tasks are left.  Returns the task's state."""
        state = one.task.state
        words = "stopped" if one.task.stopped else state if state in ("done", "diverged") else "failed"
        why = "" if words in ("done", "stopped") else f": {one.task.reason}"
        self.say(f"{words:8} {one.task.name} after {duration(time.monotonic() - one.began)}, {left} left{why}")
        return state
