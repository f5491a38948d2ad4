"""Faults on request, to show that none of them harms a run.  DIST_RMD_FAULT is read here and nowhere else.

    DIST_RMD_FAULT=kind=SIGKILL,rank=1,step=5            at the 6th optimizer step of any stage, in the first attempt
    DIST_RMD_FAULT=kind=nan,rank=0,step=7,stage=rgrl

kind: a signal's name, which the process sends itself (SIGKILL: it dies, SIGSTOP: it hangs, SIGUSR2: it is asked to
stop); nan: the loss becomes NaN; raise: a bug; exit: a library's sys.exit(0).  A restart by torchrun or SLURM is
another attempt: the fault does not return.
"""

import functools
import os
import signal
from collections.abc import Mapping

from torch import Tensor

from dist_rmd.distributed.collectives import rank
from dist_rmd.engine.clock import Clock

VARIABLE = "DIST_RMD_FAULT"
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def inject(terms: Mapping[str, Tensor], clock: Clock, stage: str) -> Mapping[str, Tensor]:
    """The loss terms of a step, unless the fault is due in it."""
    fault = _fault()
    due = fault and int(fault["step"]) == clock.step and int(fault["rank"]) == rank()
    again = any(os.environ.get(name, "0") != "0" for name in RESTARTS)
    if not due or fault.get("stage", stage) != stage or again:
        return terms
    if fault["kind"] == "raise":
        raise RuntimeError(f"{VARIABLE} asked for this failure")
    if fault["kind"] == "exit":
        raise SystemExit(0)
    if fault["kind"] == "nan":
        return {**terms, "loss": terms["loss"] * float("nan")}
    os.kill(os.getpid(), signal.Signals[fault["kind"]])
    return terms


@functools.cache
def _fault() -> dict[str, str]:
    text = os.environ.get(VARIABLE, "")
    return dict(part.split("=", 1) for part in text.split(",")) if text else {}
