"""All ranks have the same weights, gradients and statistics; shared buffers are those of rank 0."""

import torch
import torch.distributed as dist
from torch import nn

from dist_rmd.config import Distributed
from dist_rmd.distributed import processes

world = processes.detect("cpu")
processes.start(world, timeout=60)
torch.manual_seed(world.rank)
plain = processes.place(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), world, True)
mean = plain.get_buffer("1.running_mean")
net = processes.parallel(plain, world, Distributed())
net(torch.randn(5, 3)).square().sum().backward()
gradients = [p.grad for p in plain.parameters() if p.grad is not None]
assert len(gradients) == 4
for tensor in [*plain.parameters(), *gradients, mean]:
    parts = [torch.empty_like(tensor) for _ in range(world.size)]
    dist.all_gather(parts, tensor.detach().contiguous())
    assert all(torch.equal(part, parts[0]) for part in parts)
mean.fill_(world.rank)
processes.share_buffers(plain)
assert (mean == 0).all()
del net
processes.stop()
