"""Starts one torchrun agent on each node of a SLURM job, in place of one task for each rank.

    srun --ntasks-per-node=1 python -m dist_rmd.cluster.agent PROCESSES CONFIG.yaml [key=value ...]

launch/train.sbatch runs this command: PROCESSES ranks on each node.  A job that was stopped is requeued.
"""

import os
import sys
from collections.abc import Sequence

from dist_rmd.cluster.requeue import end
from dist_rmd.config import sections
from dist_rmd.distributed.launcher import SHUTDOWN_TIMEOUT, torchrun_command
from dist_rmd.distributed.rendezvous import HERE, rendezvous_from_slurm
from dist_rmd.engine import signals
from dist_rmd.pipeline import command
from dist_rmd.run.folder import RunFolder


def main(words: Sequence[str], processes: int) -> int:
    """Run `python -m dist_rmd.train WORDS` as `processes` ranks of this node, one run on all nodes of the job step.

    Returns the run's exit code.  torchrun turns every exit code other than 0 into 1, so the code is read from the run's
    exit.json; 1 if the ranks failed before they wrote this file.
    """
    from torch.distributed import run  # takes seconds

    given = command.arguments(words)
    config = sections.parse(given.config, given.overrides)
    folder = RunFolder.of(config)
    nodes = os.environ["SLURM_STEP_NUM_TASKS"]
    rendezvous_from_slurm()
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_TIMEOUT))
    options = [
        f"--nnodes={nodes}",
        f"--nproc-per-node={processes}",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint={MASTER_ADDR}:{MASTER_PORT}".format_map(os.environ),
        f"--rdzv-id={os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', 0)}",
    ]
    options += [f"--local-addr={HERE}"] if nodes == "1" else []  # a node need not resolve its own name
    before = folder.read_exit()
    try:
        run.main(torchrun_command(words, *options))
        return 0
    except Exception as error:  # a rank failed or was stopped
        signals.ignore()  # the outcome is settled
        ended = folder.read_exit()
        if ended and ended != before:
            return ended.code
        print(error, file=sys.stderr)
        return 1


def job() -> str:
    """Id of the job of this process, as scontrol takes ids; of an element of a job array: ARRAY_ELEMENT."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


if __name__ == "__main__":
    sys.exit(end(main(sys.argv[2:], int(sys.argv[1])), job()))
