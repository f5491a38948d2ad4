"""torchrun relation_ranks.py FOLDER: linear students under DDP on shards of FOLDER/whole.npz -> FOLDER/rank<r>.pt.

Called by test_relation.py, which compares the results with the whole batch.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_rmd.distill.relation import RelationLoss

SHARDS = {1: [(7,)], 2: [(4, 3), (5, 2)], 3: [(3, 2, 2), (1, 4, 2), (4, 0, 3)]}  # rows of each rank


def mine(rows: np.ndarray, sizes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    start = sum(sizes[: dist.get_rank()])
    return torch.tensor(rows[start : start + sizes[dist.get_rank()]], dtype=dtype)


def step(whole, method: str, width: int, sizes: tuple[int, ...], dtype: torch.dtype, known: bool) -> dict[str, Tensor]:
    inputs, teacher = mine(whole["inputs"], sizes, dtype), mine(whole[f"teacher{width}"], sizes, dtype)
    weight = torch.tensor(whole[f"weight{width}"], dtype=dtype)
    net = nn.Linear(5, width, bias=False, dtype=dtype)
    net.weight.data = weight
    net = DistributedDataParallel(net)
    relation = RelationLoss(method=method)(teacher, net(inputs), list(sizes) if known else None)
    relation.loss.backward()
    return {"values": torch.stack(relation).detach(), "gradient": net.module.weight.grad}


def backward_alone(whole, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """Method -> gradient of this rank's features, from a backward pass after the end of the process group."""
    teacher = mine(whole["teacher6"], sizes)
    student = mine(whole["inputs"] @ whole["weight6"].T, sizes).requires_grad_()
    losses = {method: RelationLoss(method=method)(teacher, student).loss for method in ("gather", "gram")}
    dist.destroy_process_group()
    return {method: torch.autograd.grad(loss, student)[0] for method, loss in losses.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    whole = np.load(folder / "whole.npz")
    dist.init_process_group("gloo")
    rank, shards = dist.get_rank(), SHARDS[dist.get_world_size()]
    steps = [
        (case, step(whole, *case))
        for method in ("gather", "gram")
        for width in (3, 6, 20)
        for sizes in shards
        for dtype in (torch.float64, torch.float32)
        for known in (False, True)
        for case in [(method, width, sizes, dtype, known)]
    ]
    torch.save({"steps": steps, "alone": backward_alone(whole, shards[-1])}, folder / f"rank{rank}.pt")
