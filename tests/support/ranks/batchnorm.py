"""FOLDER [compiled]: the cases of FOLDER/cases.pt on this rank's rows -> FOLDER/rank<r>.pt.

compiled: each layer and the network as one graph.  Called by test_sync_batchnorm.py, which compares the results with
torch's BatchNorm on the whole batch.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_rmd.distributed import collectives
from dist_rmd.distributed.sync_batchnorm import SyncBatchNorm, convert


def train(layer: nn.Module, batches: list[Tensor], factors: list[Tensor], autocast: bool) -> dict[str, Tensor | None]:
    """A training step per batch, loss = sum of factor * output: outputs, gradients and the layer's state afterwards."""
    seen: dict[str, Tensor | None] = {}
    for step, (batch, factor) in enumerate(zip(batches, factors, strict=True)):
        batch = batch.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = layer(batch)
        assert (output.dtype, output.stride()) == (batch.dtype, batch.stride())
        (output * factor).sum().backward()
        seen |= {f"output {step}": output.detach(), f"input gradient {step}": batch.grad}
    seen |= {f"parameter gradient {name}": value.grad for name, value in layer.named_parameters()}
    return seen | layer.state_dict()


def network() -> nn.Module:
    """Images N x 3 x 4 x 4 -> N x 5, in float64, through several normalised layers."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for channels in (3, 8, 8, 8):
        layers += [nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 5), nn.BatchNorm1d(5)).double()


def network_gradient(net: nn.Module, images: Tensor, factor: Tensor) -> Tensor:
    """Gradient of sum(factor * net(images)) with respect to all parameters, in one vector."""
    (net(images) * factor).sum().backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


if __name__ == "__main__":
    folder, compiled = Path(sys.argv[1]), sys.argv[2:] == ["compiled"]
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    work = torch.load(folder / "cases.pt", weights_only=False)

    def shard(whole: Tensor) -> Tensor:
        return whole.split(work["sizes"])[rank]

    if compiled:
        collectives.GATHERED = -1  # all_reduce, as on GPUs
    results = []
    for layer, batches, factors, autocast in work["cases"]:
        assert isinstance(convert(layer), SyncBatchNorm)
        if compiled:
            torch.compiler.reset()  # else each layer counts as recompiling the one before, which has a limit
            layer.compile(fullgraph=True, dynamic=False)
        results.append(train(layer, [*map(shard, batches)], [*map(shard, factors)], autocast))
    net = convert(network())
    if compiled:
        net.compile(fullgraph=True, dynamic=False)
    # Tiny buckets: DDP's collectives mix with those of the layers in backward.  The compiler refuses less than 1 MB.
    net = DistributedDataParallel(net, bucket_cap_mb=1 if compiled else 1e-4, broadcast_buffers=False)
    gradient = network_gradient(net, shard(work["images"]), shard(work["factor"]))
    results.append({"network": gradient * ranks})  # the loss is a sum over rows, and DDP takes the mean over ranks
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
