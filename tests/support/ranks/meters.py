"""Means over all ranks, from the start and from the state of a run on two ranks."""

import torch
import torch.distributed as dist

from dist_rmd.engine.meters import Meters

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()

meters = Meters()
meters.add({"loss": torch.tensor(float(rank))}, images=1)
assert meters.reduce()["train/loss"] == (world - 1) / 2

# The mean of rank losses 0 and 1 is 0.5, however many ranks go on with them.
meters.load_state_dict(
    {"steps": 1, "names": ["loss"], "sums": torch.tensor([[0.0], [1.0]], dtype=torch.float64)}, torch.device("cpu")
)
assert len(meters.state_dict()["sums"]) == world
meters.add({"loss": torch.tensor(2.5)}, images=1)
assert meters.reduce()["train/loss"] == 1.5
dist.destroy_process_group()
