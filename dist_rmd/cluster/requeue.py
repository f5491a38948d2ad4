"""Ends a task of a SLURM job, and puts a job that was stopped on request back into the queue."""

import os
import sys

from dist_rmd.cluster.state import RUNNING, scontrol
from dist_rmd.engine import signals
from dist_rmd.errors import Stopped, UserError


def end(code: int, job_id: str) -> int:
    """End this process with exit code `code`, or return 0 if `code` is 0.  A job that was stopped is requeued."""
    if code == 0:
        return code
    signals.ignore()  # the outcome is settled
    if code == Stopped.code:
        # The first task requeues the job and keeps the code; the others exit with 0, since some sites kill a whole job
        # when one of its tasks fails.
        code = _requeue(job_id) if os.environ["SLURM_PROCID"] == "0" else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _requeue(job_id: str) -> int:
    """Put a job that was stopped after a checkpoint back into the queue.  Returns the exit code of the process.

    A job that SLURM no longer lists as running is left alone: it was cancelled, or SLURM requeues the job itself.
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
