"""Submits the missing tasks of a sweep to SLURM as job arrays, and follows them to the end."""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from dist_rmd.cluster import submission
from dist_rmd.cluster.arrays import Queue, arrays
from dist_rmd.cluster.bundle import Bundle
from dist_rmd.cluster.standing import counts, runs, standings
from dist_rmd.sweep.tasks import RunSpec, with_needs

POLL = 5.0
"""seconds between two looks at SLURM's queue"""


def submit(tasks: Sequence[RunSpec], folder: Path, arguments: argparse.Namespace, console: Console) -> int:
    """Submit the tasks that are neither done nor in SLURM's queue; with --follow wait for all tasks.

    Returns the exit code.
    """
    queue, pack = Queue(folder), arguments.pack or 1
    queue.device = "cuda" if arguments.gpus else "cpu"
    everything = with_needs(tasks)
    before = standings(everything, queue)
    settled = {"done", "running", "pending", *(() if arguments.again else ("diverged",))}
    todo = [task for task, one in zip(everything, before, strict=True) if one.state not in settled]
    if not arguments.again:
        todo = [task for task in todo if not (task.needs and task.needs.state == "diverged")]
    console.print(f"{runs(len(before))}: {counts(before)}")
    for array in arrays(folder.name, todo, pack):
        executor = submission.executor(
            arguments, queue.folder, array.name, 1, 1, pack * arguments.ranks, parallel=arguments.jobs
        )
        if arguments.dry_run:
            console.print(submission.script(executor, len(array.bundles)), end="")
            for number, together in enumerate(array.bundles):
                console.print(f"# element {number}: {', '.join(task.name for task in together)}")
            console.print("".join(f"# after {name}\n" for name in array.needs()))
            continue
        bundle = partial(Bundle, ranks=arguments.ranks, again=arguments.again)
        with submission.submitting():
            jobs, after = queue.submit(array, executor, bundle)
        job, count = jobs[0].partition("_")[0], sum(map(len, array.bundles))
        dependency = f", after {' '.join(after)}" if after else ""
        console.print(f"submitted  {array.name}: {runs(count)}, job {job} x {len(jobs)}{dependency}")
    if arguments.dry_run or not arguments.follow:
        return 0
    try:
        return _follow(everything, queue, console)
    except KeyboardInterrupt:
        console.print("\ndetached: the jobs go on; --status in place of --slurm ... shows how they are doing")
        return 0


def _follow(tasks: Sequence[RunSpec], queue: Queue, console: Console) -> int:
    """Show every change of a task's state until no task is running or pending.  Returns the exit code."""
    shown: dict[str, str] = {}
    while True:
        found = standings(tasks, queue)
        for one in found:
            if shown.setdefault(one.name, "pending") != one.state:
                console.print(f"{time.strftime('%H:%M:%S')} {one.state:8} {one.name} {one.text}")
                shown[one.name] = one.state
        if not any(one.alive for one in found):
            console.print(f"{runs(len(found))}: {counts(found)}")
            return int(any(one.state != "done" for one in found))
        time.sleep(POLL)
