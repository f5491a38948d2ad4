"""One element of a sweep's job array: runs some of the sweep's tasks side by side on its cores and GPUs."""

from collections.abc import Sequence
from dataclasses import replace

import submitit
from submitit.helpers import DelayedSubmission

from dist_rmd.cluster.task import end
from dist_rmd.errors import Stopped
from dist_rmd.sweep.slots import Slots
from dist_rmd.sweep.tasks import RunSpec


class Bundle:
    """Tasks of a sweep, with `ranks` processes each.  again: also tries tasks again whose loss was not finite."""

    def __init__(self, tasks: Sequence[RunSpec], ranks: int, again: bool):
        self.tasks, self.ranks, self.again = tasks, ranks, again

    def __call__(self) -> int:
        """Run the tasks.  Returns 0 if all are done; else ends the process, after a stop with the job requeued."""
        lacking = [task for task in self.tasks if task.needs and task.needs.state != "done"]
        for task in lacking:
            print(f"missing  {task.name}: {task.reason}", flush=True)
        # The tasks that these start from are done; without `needs` no element of the array runs them a second time.
        ready = [replace(task, needs=None) for task in self.tasks if task not in lacking]
        slots = Slots(len(self.tasks), self.ranks, lambda line: print(line, flush=True), lambda running: None)
        stopped_by = slots.run(ready, self.again)
        states = [task.state for task in self.tasks]
        if stopped_by or any(task.stopped for task in ready):
            code = Stopped.code
        else:
            code = int(any(state != "done" for state in states))
        return end(code, submitit.JobEnvironment().job_id)

    def checkpoint(self) -> DelayedSubmission:
        """Return the work to requeue; submitit calls this method when SIGUSR2 comes before the work has begun."""
        return DelayedSubmission(self)
