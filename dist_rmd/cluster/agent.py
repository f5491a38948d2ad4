"""One torchrun agent on each node of a job, in place of one task for each rank."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dist_rmd import sections, train
from dist_rmd.engine import signals
from dist_rmd.engine.distributed import rendezvous_from_slurm

SHUTDOWN = 110
"""seconds that torchrun gives its ranks for a step and a checkpoint (before torch 2.12: 30, whatever is said here)"""


def main(words: Sequence[str], processes: int) -> int:
    """`python -m dist_rmd.train WORDS` as `processes` ranks of this node, one run on all nodes of the job step.

    Returns the run's exit code, which torchrun turns into 1: it stands in the run's exit.json, unless the run ended
    before it had begun.
    """
    from torch.distributed import run  # takes seconds

    given = train.arguments(words)
    config = sections.parse(given.config, given.overrides)
    outcome = Path(config.out) / config.name / "exit.json"
    nodes = os.environ["SLURM_STEP_NUM_TASKS"]
    rendezvous_from_slurm()
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN))
    arguments = [f"--nnodes={nodes}", f"--nproc-per-node={processes}"]
    arguments += [
        "--rdzv-backend=c10d",
        "--rdzv-endpoint={MASTER_ADDR}:{MASTER_PORT}".format_map(os.environ),
        f"--rdzv-id={os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_RESTART_COUNT', 0)}",
        # SLURM signals agents and ranks: an agent that does not handle the last two would die and leave its ranks.
        "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1,SIGUSR2",
    ]
    before = _read(outcome)
    try:
        run.main([*arguments, "-m", "dist_rmd.train", *words])
        return 0
    except Exception as error:  # a rank failed or was stopped
        signals.ignore()  # the outcome is settled
        after = _read(outcome)
        if after and after != before:
            return int(json.loads(after)["code"])
        print(error, file=sys.stderr)
        return 1


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
