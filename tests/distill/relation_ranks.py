"""torchrun relation_ranks.py FOLDER: a linear student under DDP on shards of FOLDER/whole.npz -> FOLDER/rank<r>.pt.

Called by test_relation.py, which compares the results with the whole batch.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dist_rmd.distill.relation import RelationLoss

SHARDS = {1: [(7,)], 2: [(4, 3), (5, 2)], 3: [(3, 2, 2), (1, 4, 2), (4, 0, 3)]}  # rows of each rank


def step(whole, sizes: tuple[int, ...], dtype: torch.dtype, known: bool) -> dict[str, torch.Tensor]:
    rank = dist.get_rank()
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    inputs, teacher = (torch.tensor(whole[name][mine], dtype=dtype) for name in ("inputs", "teacher"))
    net = nn.Linear(*whole["weight"].shape[::-1], bias=False, dtype=dtype)
    net.weight.data = torch.tensor(whole["weight"], dtype=dtype)
    net = DistributedDataParallel(net)
    relation = RelationLoss()(teacher, net(inputs), list(sizes) if known else None)
    relation.loss.backward()
    return {"values": torch.stack(relation).detach(), "gradient": net.module.weight.grad}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    whole = np.load(folder / "whole.npz")
    dist.init_process_group("gloo")
    results = {
        (sizes, dtype, known): step(whole, sizes, dtype, known)
        for sizes in SHARDS[dist.get_world_size()]
        for dtype in (torch.float64, torch.float32)
        for known in (False, True)
    }
    torch.save(list(results.items()), folder / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()
