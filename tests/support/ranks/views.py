"""FOLDER: twenty steps of SimSiam and BYOL, both views in one pass and view by view -> FOLDER/<rank>.pt.

Called by test_batchnorm.py, which compares the two.
"""

import sys

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from dist_rmd.config import Distributed
from dist_rmd.distributed import processes
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.updater import Updater
from dist_rmd.models.batchnorm import BatchNorm
from dist_rmd.pipeline.session import place
from dist_rmd.stages.byol import Online
from dist_rmd.stages.simsiam import Siamese
from support.recipe import batch, stage

STEPS = 20
METHODS = ("simsiam", "byol")


class SiameseByView(Siamese):
    def forward(self, view1, view2):
        z1, z2 = (self.projector(self.encoder(view)) for view in (view1, view2))
        return self.predictor(z1), self.predictor(z2), z1.detach(), z2.detach()


class OnlineByView(Online):
    def forward(self, view1, view2):
        z1, z2 = (self.projector(self.encoder(view)) for view in (view1, view2))
        return self.predictor(z1), self.predictor(z2), z1.detach()


class TargetByView(torch.nn.Module):
    """BYOL's target network, to which both views come in one batch."""

    def __init__(self, target):
        super().__init__()
        self.target = target

    def forward(self, images):
        return torch.cat([self.target(view) for view in images.chunk(2)])


BY_VIEW = {Siamese: SiameseByView, Online: OnlineByView}


class Collectives(TorchDispatchMode):
    """Counts operations between ranks."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.namespace == "c10d" and "barrier" not in str(function)
        return function(*args, **(kwargs or {}))


def trace(name, world, by_view):
    """Each step's loss, the state after the last step, and the operations between ranks in a step's losses."""
    s = stage(name, f"{name}.lr=0.01")
    if by_view:
        s.net.__class__ = BY_VIEW[type(s.net)]
        for layer in [*s.net.modules(), *(m for average in s.averages.values() for m in average.modules())]:
            if isinstance(layer, BatchNorm):
                layer.views = 1
    place(s, world, torch.float64)
    net = processes.parallel(s.net, world, Distributed())
    updater = Updater(s.param_groups(), s.optimization, 10, world.device, "fp64")
    plain, losses = s.averages.get("target"), []
    for step in range(STEPS):
        here = batch(2, rank=world.rank, world=world.size, dtype=torch.float64, seed=step)
        if by_view and plain is not None:
            s.averages["target"] = TargetByView(plain)
        with Collectives() as collectives:
            loss = s.losses(net, here)["loss"]
            updater.backward(loss, Clock(step=step))
        updater.step()
        if plain is not None:
            s.averages["target"] = plain
        s.after_step(Clock(step=step + 1))
        losses.append(loss.item())
    states = {"net": s.net.state_dict(), **{key: net.state_dict() for key, net in s.averages.items()}}
    return {"losses": losses, "collectives": collectives.count, "states": states}


if __name__ == "__main__":
    world = processes.detect("cpu")
    processes.start(world, timeout=60)
    found = {name: [trace(name, world, by_view) for by_view in (False, True)] for name in METHODS}
    torch.save(found, f"{sys.argv[1]}/{dist.get_rank()}.pt")
    processes.stop()
