"""One torchrun agent on each node of a job, in place of one task for each rank.

    srun --ntasks-per-node=1 python -m dist_rmd.cluster.agent PROCESSES CONFIG.yaml [key=value ...]

is what launch/train.sbatch runs: PROCESSES ranks on each node, and a job that was stopped is requeued.
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
    """`python -m dist_rmd.train WORDS` as `processes` ranks of this node, one run on all nodes of the job step.

    Returns the run's exit code, which torchrun turns into 1: it stands in the run's exit.json, unless the run ended
    before it had begun.
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
    options += [f"--local-addr={HERE}"] if nodes == "1" else []  # whose name need not mean anything to itself
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
    """The id of the job that this process is part of, as scontrol takes it; an array's element has one of its own."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


if __name__ == "__main__":
    sys.exit(end(main(sys.argv[2:], int(sys.argv[1])), job()))
