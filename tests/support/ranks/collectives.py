"""FOLDER: every collective on gloo -> FOLDER/rank<r>.pt.

Called by test_collectives.py.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from dist_rmd.distributed import collectives


def rows(rank: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """size x 2 x 3 rows that differ from those of every other rank; not contiguous in memory."""
    draw = torch.Generator().manual_seed(rank)
    return torch.randint(-99, 99, (3, 2, size), generator=draw).to(dtype).permute(2, 1, 0)


def far_from_zero(rank: int) -> torch.Tensor:
    """1 + 2 * rank rows of 4 float32 around 1000, whose squares would leave nothing of a variance of 1."""
    return 1000 + torch.randn(1 + 2 * rank, 4, generator=torch.Generator().manual_seed(rank))


def sizes(world: int) -> list[list[int]]:
    """Rows of each rank: even, uneven, and some rank without any."""
    return [[2] * world, [1 + 3 * rank for rank in range(world)], [5 * (rank == world - 1) for rank in range(world)]]


def asked(rank: int, size: int) -> torch.Tensor:
    """The gradient, size x 2 x 3, of all ranks' rows that one rank's loss has; laid out otherwise on rank 0."""
    draw = torch.Generator().manual_seed(100 + rank)
    gradient = torch.randint(-99, 99, (3, 2, size), generator=draw).float().permute(2, 1, 0)
    return gradient.contiguous() if rank else gradient


def with_gradient(rank: int, known: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """All ranks' rows, and the gradient of this rank's."""
    own = rows(rank, known[rank], torch.float32).requires_grad_()
    found = collectives.gather_rows(own, known)
    (gradient,) = torch.autograd.grad(found, own, asked(rank, sum(known)))
    return found.detach(), gradient


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank, world = collectives.rank(), collectives.world_size()
    gathered: list[tuple] = []
    gradients: list[tuple] = []
    result: dict[str, object] = {"place": (rank, world), "gathered": gathered, "with_gradient": gradients}
    for case in sizes(world):
        known = collectives.gather_sizes(case[rank], torch.device("cpu"))
        for dtype in (torch.float32, torch.int64):
            own = rows(rank, case[rank], dtype).requires_grad_(dtype.is_floating_point)
            gathered.append((known, collectives.all_gather_rows(own, known)))
        gradients.append(with_gradient(rank, known))
    own = torch.full((2,), 10.0**rank, requires_grad=True)
    result["sum"], result["own"] = collectives.all_reduce_sum(own), own.detach()
    large = torch.full((collectives.GATHERED // 4 + 1,), 10**rank, dtype=torch.int32)
    result["sums"] = [collectives.all_reduce_sum(part) for part in (large[:3], large)]  # gathered, and not
    var, mean = torch.var_mean(far_from_zero(rank), dim=0, correction=0)
    result["moments"] = collectives.global_moments(mean, var, 1 + 2 * rank)
    memory, whole = torch.zeros(9, 2), torch.arange(9)
    mine = whole[rank::world][: 3 - rank]  # uneven, in no rank's order
    counts = [len(whole[r::world][: 3 - r]) for r in range(world)]
    collectives.write_rows(memory, mine, 10.0 * mine[:, None].expand(-1, 2) + rank, counts)
    result["written"] = memory
    result["first"] = collectives.first_ranks([torch.full((2, 2), rank + 1.0), torch.tensor(rank + 2.0)])
    torch.save(result, Path(sys.argv[1]) / f"rank{rank}.pt")
    dist.destroy_process_group()
