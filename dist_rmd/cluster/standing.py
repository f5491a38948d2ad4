"""Status of each task of a sweep, from the files on the disk and from SLURM's queue."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dist_rmd.cluster.arrays import Queue
from dist_rmd.cluster.state import slurm_state
from dist_rmd.sweep.tasks import RunSpec


@dataclass(frozen=True)
class Standing:
    """Status of one task, a line of the sweep's table."""

    name: str
    state: str
    """done, running, pending, stopped, failed, diverged, lost (its job ended without a word), or open (not begun)"""
    job: str
    """id of the task's last job; empty if there was no job"""
    text: str
    """progress of the task, or the reason why the task does not go on"""

    @property
    def alive(self) -> bool:
        """Whether the task goes on without being started again."""
        return self.state in ("running", "pending")


def standings(tasks: Sequence[RunSpec], queue: Queue) -> list[Standing]:
    """Status of the tasks now.  Raises UserError when tasks were submitted to SLURM and SLURM does not answer."""
    queued = queue.states()
    return [_standing(task, queue, queued.get(task.name, "")) for task in tasks]


def counts(found: Collection[Standing]) -> str:
    """Number of tasks in each state, as text: `3 done, 1 running`."""
    states = [one.state for one in found]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))


def _standing(task: RunSpec, queue: Queue, queued: str) -> Standing:
    state, job = task.state, queue.jobs.get(task.name, "")
    if state == "busy":
        return Standing(task.name, "running", job, _progress(task))
    if state == "done":
        return Standing(task.name, state, job, "")
    if queued:
        return Standing(task.name, "running" if queued.startswith("RUNNING") else "pending", job, queued)
    if state in ("failed", "diverged"):
        return Standing(task.name, state, job, task.reason)
    if task.stopped:
        return Standing(task.name, "stopped", job, _progress(task))
    if job and (not task.needs or task.needs.state == "done"):
        return Standing(task.name, "lost", job, f"{slurm_state(job).text}; see {queue.log(job)}")
    return Standing(task.name, state, job, task.reason if job else "")


def _progress(task: RunSpec) -> str:
    if not (status := task.status):
        return ""
    return f"{status.stage}, epoch {status.epoch + 1}, {100 * status.step / max(1, status.steps):.0f} %"


def runs(count: int) -> str:
    """The number of runs as text: `1 run`, `2 runs`."""
    return f"{count} run{'s' * (count != 1)}"
