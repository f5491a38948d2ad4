"""Means over all ranks, from the start and from the state of a run on two ranks."""

import torch
import torch.distributed as dist

from dist_rmd.engine.meters import Meters

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

meters = Meters()
meters.add({"loss": torch.tensor(float(rank))}, images=1)
assert meters.reduce()["train/loss"] == (world - 1) / 2

# From what an older version saved.  The mean of rank losses 0 and 1 is 0.5, however many ranks go on with them.
meters.load_state_dict(
    {"steps": 1, "names": ["loss"], "sums": torch.tensor([[0.0], [1.0]], dtype=torch.float64)}, torch.device("cpu")
)
(kind,) = meters.state_dict()["kinds"]
assert len(kind["sums"]) == world
meters.add({"loss": torch.tensor(2.5)}, images=1)
assert meters.reduce()["train/loss"] == 1.5

# Counts of two ranks, 1 of 2 and 3 of 4, are 4 of 6 with any number of ranks; then each rank adds 0 of 1.
kind = {"terms": [["fitted", 2]], "steps": 1, "sums": torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)}
meters.load_state_dict({"kinds": [kind]}, torch.device("cpu"))
meters.add({"fitted": torch.tensor([0, 1])}, images=1)
assert abs(meters.reduce()["train/fitted"] - 4 / (6 + world)) < 1e-15
dist.destroy_process_group()
