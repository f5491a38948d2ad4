"""Three ranks: what step check and peers agree on, then one of them dies.  Argument: FOLDER"""

import json
import os
import sys
import time
from pathlib import Path

import torch

from dist_rmd.distributed import processes
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.signals import StopRequest
from dist_rmd.engine.step_check import StepCheck
from dist_rmd.errors import NonFiniteLoss

folder = Path(sys.argv[1])
world = processes.detect("cpu")
peers = processes.start(world, timeout=30)
rank = world.rank
seen: dict[str, object] = {}

seen["highest"] = peers.highest([rank, 5 - rank, 7])
seen["gathered"] = peers.gather({"rank": rank})
seen["leads"] = peers.leads

request = StopRequest()
check = StepCheck("rgrl", peers, request, minutes=60 if rank else 1e-9)
samples = torch.arange(12 * rank, 12 * rank + 12)
fine = {"loss": torch.tensor(1.0), "loss_edge": torch.tensor(2.0)}


def look(terms: dict) -> None:
    check.note(terms, samples)
    check.agree(Clock(step=4))


look(fine)
seen["nothing"] = [check.stop_signal, check.save_due]  # but the leading rank's ten minutes are over
check.saved()
check._next = 0 if rank else time.monotonic() + 60
look(fine)
seen["not the leading rank's clock"] = check.save_due
request.signal = 12 if rank == 2 else 0
look(fine)
seen["asked"] = [check.stop_signal, check.save_due]
request.signal = 0
try:
    look(fine | {"loss_edge": torch.tensor(float("inf")), "loss": torch.tensor(float("nan"))} if rank == 1 else fine)
except NonFiniteLoss as error:
    seen["not finite"] = [str(error), error.agreed, error.facts]

(folder / f"agreed{rank}.json").write_text(json.dumps(seen))
if rank == 1:
    os._exit(0)
try:
    peers.gather(rank)
except Exception as error:
    explained = peers.explain(error)
    lost: dict[str, object] = {"type": type(explained).__name__, "text": str(explained)}
    others = [RuntimeError("shapes differ"), OSError("Connection timed out")]
    lost["not explained"] = [peers.explain(other) is other for other in others]
    (folder / f"lost{rank}.json").write_text(json.dumps(lost))
os._exit(0)
