"""What each task of a submitted job runs: training, and the job's way back into the queue after a stop on request."""

import os
import sys
from collections.abc import Sequence

import submitit
from submitit.helpers import DelayedSubmission

from dist_rmd.cluster.state import RUNNING, scontrol
from dist_rmd.engine import signals
from dist_rmd.errors import Stopped, UserError

NUMBER = "%a"
"""in the words of a job array's tasks: the number of the element, as in file names of sbatch"""


class Task:
    """`python -m dist_rmd.train WORDS`, as one rank of a job of submitit's, under SLURM or on this machine.

    agent_of: so many ranks of this node in place of one, through torchrun.
    """

    def __init__(self, words: Sequence[str], agent_of: int | None = None):
        self.words, self.agent_of = list(words), agent_of

    def __call__(self) -> int:
        """Train.  Returns the exit code on this machine; under SLURM the process leaves with it."""
        # Not before submitit has put up its handler: the imports take seconds, in which SIGUSR2 then requeues the job.
        from dist_rmd import train
        from dist_rmd.cluster import agent

        job = submitit.JobEnvironment()
        if job.cluster == "local":
            ranks = {"RANK": job.global_rank, "WORLD_SIZE": job.num_tasks}
            ranks |= {"LOCAL_RANK": job.local_rank, "LOCAL_WORLD_SIZE": job.num_tasks}
            os.environ.update({name: str(number) for name, number in ranks.items()})
            return train.main(self.words)
        words = numbered(self.words, job.array_task_id)
        return end(agent.main(words, self.agent_of) if self.agent_of else train.main(words), job.job_id)

    def checkpoint(self) -> DelayedSubmission:
        """For submitit, which asks when SIGUSR2 came before training began: the same again."""
        return DelayedSubmission(self)


def numbered(words: Sequence[str], number: int | str | None) -> list[str]:
    """The words with the number of a job array's element in the place for it; as they are where there is none."""
    return [word if number is None else word.replace(NUMBER, str(number)) for word in words]


def end(code: int, job_id: str) -> int:
    """End this task of a job with an exit code, or return it where it is 0; a job that was stopped is requeued."""
    if code == 0:
        return code
    signals.ignore()  # the outcome is settled
    if code == Stopped.code:
        # The first task speaks for all: a site that kills jobs of which one task failed must not hit it.
        code = _requeue(job_id) if os.environ["SLURM_PROCID"] == "0" else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _requeue(job_id: str) -> int:
    """Put the job, which has been stopped after a checkpoint, back into the queue.  Returns the exit code.

    A job that is no longer running has been cancelled, or SLURM requeues it itself.
    """
    try:
        state = scontrol("show", "job", job_id)[0]["JobState"]
        if state == RUNNING:
            print(f"job {job_id}: requeued, to go on from its checkpoint", flush=True)
            scontrol("requeue", job_id)
        else:
            print(f"job {job_id}: not requeued, SLURM is ending it ({state})", flush=True)
    except UserError as error:
        print(f"error: job {job_id}: not requeued: {error}", file=sys.stderr, flush=True)
    return Stopped.code
