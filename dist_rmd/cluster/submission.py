"""Submits work to SLURM through submitit, whose scripts are requeued and go on in the same log."""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import submitit

from dist_rmd.cluster.options import SITE
from dist_rmd.cluster.state import in_slurms_words
from dist_rmd.errors import ConfigError, UserError
from dist_rmd.text.escapes import slurm_pattern

SIGNAL_BEFORE_END = 120
"""seconds before the time limit at which SLURM asks the job to stop"""
NEVER = 10**6
"""a limit that no job reaches: of submitit's timeouts, elements at once and minutes"""
OF_ONE_MACHINE = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay", "ramfs"}


class SlurmExecutor(submitit.SlurmExecutor):
    """submitit's executor, made to write a job's script also on a machine without SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        """The job's script, with the folder of logs escaped for SLURM's file name patterns."""
        text = super()._make_submission_file_text(command, uid)
        folder = str(Path(self.folder).expanduser().absolute())
        return text.replace(f"{folder}/%", f"{slurm_pattern(folder)}/%")


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError if there is no time limit, or, unless for a dry run, no SLURM on this machine."""
    if not options.dry_run and not shutil.which("sbatch"):
        raise ConfigError("sbatch is not in PATH: run this where jobs are submitted; --dry-run needs none")
    if options.time is None:
        raise ConfigError(f"--time is missing: how long the job may take, such as 12:00:00; also in ~/{SITE}")


def executor(
    options: argparse.Namespace,
    folder: Path,
    name: str,
    nodes: int,
    tasks_per_node: int,
    processes: int = 1,
    parallel: int | None = None,
    array: str | None = None,
) -> SlurmExecutor:
    """Return an executor that submits jobs called `name` to SLURM, with the options of `JobParser.add_job_options`.

    folder: takes the logs.
    processes: number of processes that each task starts; they share the task's cores.
    parallel: number of elements of an array that run at once.
    array: elements of a job array for `submit_array`, in sbatch's notation, such as 1,3-5%2.
    Raises ConfigError (see `check`).
    """
    check(options)
    made = SlurmExecutor(folder, max_num_timeout=NEVER)
    made.update_parameters(
        job_name=name,
        time=options.time,
        nodes=nodes,
        ntasks_per_node=tasks_per_node,
        gpus_per_node=options.gpus_per_node,
        cpus_per_task=options.cpus_per_task,
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        constraint=options.constraint,
        comment=options.comment,
        array_parallelism=parallel or NEVER,
        signal_delay_s=SIGNAL_BEFORE_END,
        stderr_to_stdout=True,
        setup=[*threads(options.cpus_per_task, processes), *(f"{command} || exit" for command in options.setup)],
        wckey=None,
        additional_parameters={"requeue": True}
        | ({"mem": options.mem} if options.mem else {})
        | ({"array": array} if array else {})
        | dict(options.sbatch),
        # srun takes no --cpus-per-task from sbatch since SLURM 22.05.
        srun_args=[*([f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else []), *options.srun],
    )
    if array:
        made.parameters["map_count"] = 1  # for the names of logs; `array` wins over this number
    return made


def script(executor: SlurmExecutor, elements: int = 1) -> str:
    """Return the script that sbatch would get for one job, or for a job array of several elements."""
    if elements > 1:
        executor.parameters["map_count"] = elements  # as submitit does when it submits a batch
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def submit_array(made: SlurmExecutor, task: Callable[[], int], numbers: Sequence[int]) -> str:
    """Submit `task` as a job array with the elements `numbers` through `made`, an executor with an `array`.

    Returns the array's id.  The elements keep the numbers that the user gave; submitit's own arrays count from 0.
    """
    job = made.submit(task)
    for number in numbers:  # each element waits for a file of its own
        (made.folder / f"{job.job_id}_{number}_submitted.pkl").symlink_to(job.paths.submitted_pickle.name)
    return str(job.job_id)


def threads(cores: int | None, processes: int = 1) -> list[str]:
    """Line of shell that limits the threads of a task's processes to the task's cores; none without --cpus-per-task."""
    return [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{max(1, cores // processes)}}}"] if cores else []


@contextlib.contextmanager
def submitting() -> Iterator[None]:
    """Raise UserError with SLURM's message where a submission in this context is refused.

    Removes SLURM's variables from the environment, so that a job submitted from another job inherits nothing from it.
    """
    inherited = [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_")) and name != "SLURM_CONF"]
    for name in inherited:
        del os.environ[name]
    try:
        yield
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"not submitted: {in_slurms_words(str(error))}") from None


def warn_of_local_disk(out: str) -> None:
    """Warn if `out` is on a file system that other machines probably do not see."""
    kind = filesystem(Path(out))
    if kind in OF_ONE_MACHINE:
        print(
            f"warning: out={out} is on {kind}, which machines seldom share: all of the job's must see it",
            file=sys.stderr,
        )


def filesystem(path: Path) -> str:
    """Type of the file system of a path, such as nfs4; "" if unknown.  The path need not exist."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    places = {Path(mount[1].replace("\\040", " ")): mount[2] for mount in mounts}  # the last mount on a place counts
    whole = path.resolve()
    return next((places[place] for place in (whole, *whole.parents) if place in places), "")
