"""A task of a submitted job: trains, and puts the job back into the queue after a stop on request."""

import os
from collections.abc import Sequence

import submitit
from submitit.helpers import DelayedSubmission

from dist_rmd.cluster.requeue import end

NUMBER = "%a"
"""stands for the number of a job array's element in the words of its command line, as in file names of sbatch"""


class SlurmTask:
    """Runs `python -m dist_rmd.train WORDS` as one rank of a submitit job, under SLURM or on this machine.

    agent_of: number of ranks that this task starts on its node through torchrun; None: the task is one rank itself.
    """

    def __init__(self, words: Sequence[str], agent_of: int | None = None):
        self.words, self.agent_of = list(words), agent_of

    def __call__(self) -> int:
        """Train.  Returns the exit code on this machine; under SLURM a code other than 0 ends the process."""
        # Imported after submitit has set its signal handler: a SIGUSR2 during these slow imports requeues the job.
        from dist_rmd.cluster import agent
        from dist_rmd.pipeline import command

        job = submitit.JobEnvironment()
        if job.cluster == "local":
            ranks = {"RANK": job.global_rank, "WORLD_SIZE": job.num_tasks}
            ranks |= {"LOCAL_RANK": job.local_rank, "LOCAL_WORLD_SIZE": job.num_tasks}
            os.environ.update({name: str(number) for name, number in ranks.items()})
            return command.main(self.words)
        words = numbered(self.words, job.array_task_id)
        return end(agent.main(words, self.agent_of) if self.agent_of else command.main(words), job.job_id)

    def checkpoint(self) -> DelayedSubmission:
        """Return the work to requeue; submitit calls this method when SIGUSR2 comes before training has begun."""
        return DelayedSubmission(self)


def numbered(words: Sequence[str], number: int | str | None) -> list[str]:
    """Replace NUMBER in the words by the number of a job array's element; no change without a number."""
    return [word if number is None else word.replace(NUMBER, str(number)) for word in words]
