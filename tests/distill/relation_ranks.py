"""Under torchrun: the relation loss on uneven shards equals numpy's on the whole batch; called by test_relation.py."""

import numpy as np
import torch
import torch.distributed as dist
from relation_reference import numpy_relation, problem, student_gradients
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dist_rmd.distill.relation import RelationLoss

SHARDS = {1: [[7]], 2: [[4, 4], [5, 2]], 3: [[3, 3, 3], [1, 6, 2], [4, 0, 3]]}  # rows of each rank


def check(sizes: list[int], dtype: torch.dtype, rtol: float, known: bool) -> None:
    rank = dist.get_rank()
    inputs, teacher, weight = problem(sum(sizes), seed=len(sizes))
    net = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=dtype)
    net.weight.data = torch.tensor(weight, dtype=dtype)
    net = DistributedDataParallel(net)
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    local = [torch.tensor(whole[mine], dtype=dtype) for whole in (inputs, teacher)]

    relation = RelationLoss(node=0.8, edge=0.35)(local[1], net(local[0]), sizes if known else None)
    relation.loss.backward()

    expected = numpy_relation(teacher, inputs @ weight.T)
    np.testing.assert_allclose([float(value.detach()) for value in relation], expected, rtol=rtol)
    gradient = net.module.weight.grad.double().numpy()
    whole = student_gradients(inputs, teacher, weight)
    np.testing.assert_allclose(gradient, whole, rtol=0, atol=rtol * np.abs(whole).max())
    values = torch.stack([value.detach() for value in relation])
    everywhere = [torch.empty_like(values) for _ in sizes]
    dist.all_gather(everywhere, values)
    assert all(torch.equal(values, other) for other in everywhere)


dist.init_process_group("gloo")
for sizes in SHARDS[dist.get_world_size()]:
    for known in (False, True):
        check(sizes, torch.float64, 1e-9, known)
        check(sizes, torch.float32, 1e-5, known)
print("checked", flush=True)
dist.destroy_process_group()
