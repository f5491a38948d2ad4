"""Lays a sweep out as SLURM job arrays: first the stages that several cells share, then the cells."""

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dist_rmd.cluster.state import in_slurms_words
from dist_rmd.errors import DataError, UserError
from dist_rmd.files import write_json
from dist_rmd.run.folder import slurm_folder
from dist_rmd.sweep.tasks import RunSpec

if TYPE_CHECKING:  # both import submitit, which --status does without
    from dist_rmd.cluster.bundle import Bundle
    from dist_rmd.cluster.submission import SlurmExecutor


@dataclass(frozen=True)
class Array:
    """Tasks that may begin at the same time: one job array, with an element for each bundle."""

    name: str
    bundles: Sequence[Sequence[RunSpec]]

    def needs(self) -> list[str]:
        """Names of the tasks whose results the tasks of this array start from."""
        return sorted({task.needs.name for bundle in self.bundles for task in bundle if task.needs})


def arrays(sweep: str, tasks: Sequence[RunSpec], pack: int) -> Iterator[Array]:
    """Group the tasks of the sweep named `sweep` into job arrays of `pack` tasks per element.

    Every array comes after the arrays that its tasks need.
    """

    def order(task: RunSpec) -> tuple[int, bool, str]:
        return _depth(task), not task.serves, task.config.stages[-1] if task.serves else ""

    for (_, _, stage), group in itertools.groupby(sorted(tasks, key=order), order):
        together = list(group)
        bundles = [together[start : start + pack] for start in range(0, len(together), pack)]
        yield Array(f"{sweep}-{stage}" if stage else sweep, bundles)


def _depth(task: RunSpec) -> int:
    return 1 + _depth(task.needs) if task.needs else 0


class Queue:
    """The SLURM job of each task of the sweep in `folder`, kept in <folder>/slurm/jobs.json.

    device: cuda or cpu, the device of the jobs; None before the first job.  It is kept because results are found by
    their device, and the machine on which a user looks at the sweep may have another device than the jobs.
    """

    def __init__(self, folder: Path):
        self.folder = slurm_folder(folder)
        self._path = self.folder / "jobs.json"
        try:
            kept = json.loads(self._path.read_text())
        except FileNotFoundError:
            kept = {"device": None, "jobs": {}}
        except ValueError as error:
            raise DataError(
                f"{self._path}: damaged ({error}): see with squeue which jobs of the sweep go on, then remove it"
            ) from None
        self.device: str | None = kept["device"]
        self.jobs: dict[str, str] = kept["jobs"]

    def log(self, job: str) -> Path:
        """Path of the log of a job's only task."""
        return self.folder / f"{job}_0_log.out"

    def states(self) -> dict[str, str]:
        """State of every task whose job has not ended: name of the task -> `RUNNING`, `PENDING (Priority)`, ...

        Raises UserError when SLURM does not answer: an empty answer would submit queued tasks a second time.
        """
        if not self.jobs:
            return {}
        command = ["squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "%i %T (%r)"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        except subprocess.CalledProcessError as error:
            raise UserError(f"squeue: {in_slurms_words(error.stderr)}") from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"squeue, which knows of the jobs in {self._path}: {error}") from None
        lines = (line.removesuffix(" (None)").partition(" ") for line in listed.splitlines())
        states = {job: state for job, _, state in lines}
        return {name: states[job] for name, job in self.jobs.items() if job in states}

    def submit(
        self, array: Array, executor: "SlurmExecutor", bundle: "Callable[[Sequence[RunSpec]], Bundle]"
    ) -> tuple[list[str], list[str]]:
        """Submit an array that begins when the jobs that it needs have ended.

        Returns the ids of the submitted jobs and the ids of the jobs that they wait for.  Call this method within
        `submission.submitting`, which turns a refusal by SLURM into a UserError.
        """
        alive = self.states()
        before = [self.jobs[name] for name in array.needs() if name in alive]
        executor.update_parameters(dependency=f"afterany:{':'.join(before)}" if before else None)
        with executor.batch():
            submitted = [executor.submit(bundle(tasks)) for tasks in array.bundles]
        for job, tasks in zip(submitted, array.bundles, strict=True):
            self.jobs |= {task.name: job.job_id for task in tasks}
        write_json(self._path, {"device": self.device, "jobs": self.jobs})
        return [job.job_id for job in submitted], before
