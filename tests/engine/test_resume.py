import pytest
import torch
from torch import nn

from dist_rmd.config import Optimization
from dist_rmd.engine import resume
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.updater import Updater
from dist_rmd.errors import DataError


def parts(seed):
    torch.manual_seed(seed)
    net = nn.Linear(3, 2)
    updater = Updater([{"params": list(net.parameters())}], Optimization(), 5, torch.device("cpu"), "fp32")
    return net, updater, Clock()


def test_everything_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    net, updater, clock = parts(0)
    assert not resume.restore(checkpoints, "key", net, updater, clock)
    for _ in range(3):
        updater(net(torch.ones(1, 3)).sum(), clock)
        clock.tick()
    checkpoints.save(clock.step, resume.capture("key", net, updater, clock))
    other, other_updater, other_clock = parts(1)
    assert resume.restore(checkpoints, "key", other, other_updater, other_clock)
    assert other_clock == clock
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    mine, theirs = (u.state_dict()["optimizer"]["state"][0]["momentum_buffer"] for u in (updater, other_updater))
    assert torch.equal(mine, theirs)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    net, updater, clock = parts(0)
    checkpoints.save(0, resume.capture("key", net, updater, clock))
    with pytest.raises(DataError, match="other images, labels or settings"):
        resume.restore(checkpoints, "another", net, updater, clock)
