"""What each task of a submitted job runs: training, and the job's way back into the queue after a stop on request."""

import os
from collections.abc import Sequence

import submitit
from submitit.helpers import DelayedSubmission

from dist_rmd.cluster.requeue import end

NUMBER = "%a"
"""in the words of a job array's tasks: the number of the element, as in file names of sbatch"""


class SlurmTask:
    """`python -m dist_rmd.train WORDS`, as one rank of a job of submitit's, under SLURM or on this machine.

    agent_of: so many ranks of this node in place of one, through torchrun.
    """

    def __init__(self, words: Sequence[str], agent_of: int | None = None):
        self.words, self.agent_of = list(words), agent_of

    def __call__(self) -> int:
        """Train.  Returns the exit code on this machine; under SLURM the process leaves with it."""
        # Not before submitit has put up its handler: the imports take seconds, in which SIGUSR2 then requeues the job.
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
        """For submitit, which asks when SIGUSR2 came before training began: the same again."""
        return DelayedSubmission(self)


def numbered(words: Sequence[str], number: int | str | None) -> list[str]:
    """The words with the number of a job array's element in the place for it; as they are where there is none."""
    return [word if number is None else word.replace(NUMBER, str(number)) for word in words]
