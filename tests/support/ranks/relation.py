"""FOLDER: linear students under DDP on shards of FOLDER/whole.npz -> FOLDER/rank<r>.pt.

Called by test_relation.py, which compares the results with the whole batch.
"""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_rmd.distill.relation import RelationLoss

FORMS: list[dict[str, Any]] = [
    {"method": method, "norm": norm, "node_pairs": pairs}
    for method, node_pairs in (("gather", ["all", "other_label", "self"]), ("gram", ["all"]))
    for norm in ("fro", "rms")
    for pairs in node_pairs
]
"""all that one can ask of the relation loss"""

WIDTHS = (3, 6, 20)
# rows of each rank
SHARDS: dict[int, list[tuple[int, ...]]] = {1: [(7,)], 2: [(4, 3), (5, 2)], 3: [(3, 2, 2), (1, 4, 2), (4, 0, 3)]}


def cases(ranks: int) -> list[tuple[dict[str, Any], int, tuple[int, ...], torch.dtype, bool]]:
    """Form, width, shards, float type, shards told or not: the paper's loss in all ways, its options in one."""
    papers = [form for form in FORMS if (form["norm"], form["node_pairs"]) == ("fro", "all")]
    dtypes, known = (torch.float64, torch.float32), (False, True)
    return [
        *itertools.product(papers, WIDTHS, SHARDS[ranks], dtypes, known),
        *itertools.product([form for form in FORMS if form not in papers], [6], SHARDS[ranks], dtypes[:1], known[:1]),
    ]


def mine(rows: np.ndarray, sizes: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    start = sum(sizes[: dist.get_rank()])
    return torch.tensor(rows[start : start + sizes[dist.get_rank()]], dtype=dtype)


def step(
    whole, form: dict[str, Any], width: int, sizes: tuple[int, ...], dtype: torch.dtype, known: bool
) -> dict[str, Tensor]:
    inputs, teacher = mine(whole["inputs"], sizes, dtype), mine(whole[f"teacher{width}"], sizes, dtype)
    weight = torch.tensor(whole[f"weight{width}"], dtype=dtype)
    net = nn.Linear(5, width, bias=False, dtype=dtype)
    net.weight.data = weight
    wrapped = DistributedDataParallel(net)
    labels = mine(whole["labels"], sizes)
    relation = RelationLoss(**form)(teacher, wrapped(inputs), list(sizes) if known else None, labels)
    relation.loss.backward()
    assert net.weight.grad is not None
    return {"values": torch.stack(relation).detach(), "gradient": net.weight.grad}


def backward_alone(whole, sizes: tuple[int, ...]) -> list[Tensor]:
    """For each form the gradient of this rank's features, from a backward pass after the end of the process group."""
    teacher, labels = mine(whole["teacher6"], sizes), mine(whole["labels"], sizes)
    student = mine(whole["inputs"] @ whole["weight6"].T, sizes).requires_grad_()
    losses = [RelationLoss(**form)(teacher, student, labels=labels).loss for form in FORMS]
    dist.destroy_process_group()
    return [torch.autograd.grad(loss, student)[0] for loss in losses]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    whole = np.load(folder / "whole.npz")
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    steps = [(case, step(whole, *case)) for case in cases(ranks)]
    torch.save({"steps": steps, "alone": backward_alone(whole, SHARDS[ranks][-1])}, folder / f"rank{rank}.pt")
