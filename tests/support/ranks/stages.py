"""FOLDER "STAGE key=value ..." ...: what each stage's step comes to -> FOLDER/<number of the stage>-<rank>.pt."""

import sys

import torch

from dist_rmd.config import Distributed
from dist_rmd.distributed import processes
from dist_rmd.distributed.collectives import all_reduce_sum
from dist_rmd.distributed.processes import World
from dist_rmd.pipeline.session import place
from support.recipe import batch_for, fill_memory, stage

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def measure(case: str, world: World = ALONE) -> dict[str, torch.Tensor]:
    """The gradients, the statistics, the memory and each term over the ranks, in float64."""
    name, *overrides = case.split()
    s = stage(name, *overrides)
    fill_memory(s)
    place(s, world, torch.float64)
    net = processes.parallel(s.net, world, Distributed())
    here = batch_for(s, rank=world.rank, world=world.size, dtype=torch.float64)
    terms, moved = s.losses(net, here), s.trained(here)
    terms["loss"].backward(inputs=None if moved is None else list(moved.parameters()))
    found = {key: p.grad for key, p in s.net.named_parameters() if p.grad is not None}
    found |= {f"buffer {key}": b for key, b in s.net.named_buffers()}
    found |= {f"memory {key}": tensor for key, tensor in s.memory.items()}
    # A number is a mean over ranks, two are counts.
    return found | {
        f"term {key}": all_reduce_sum(term.detach()) / (1 if term.dim() else world.size) for key, term in terms.items()
    }


if __name__ == "__main__":
    world = processes.detect("cpu")
    processes.start(world, timeout=60)
    for number, case in enumerate(sys.argv[2:]):
        torch.save(measure(case, world), f"{sys.argv[1]}/{number}-{world.rank}.pt")
    processes.stop()
