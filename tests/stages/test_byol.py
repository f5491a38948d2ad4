import copy

import numpy as np
import pytest
import torch
from support.recipe import batch, stage

from dist_rmd.engine.clock import Clock
from dist_rmd.models.batchnorm import BatchNorm


def byol():
    s = stage("byol")
    s.net.double()
    s.target.double()
    with torch.no_grad():
        for parameter in s.target.parameters():
            parameter.mul_(1.1)
    return s


def test_loss_is_the_papers_equation_2_in_both_directions():
    s, b = byol(), batch(views=2, dtype=torch.float64)
    trained, net = copy.deepcopy(s.target).train(), copy.deepcopy(s.net)
    for layer in (*trained.modules(), *net.modules()):
        if isinstance(layer, BatchNorm):
            layer.views = 1
    z1, z2 = (trained(view).detach().numpy() for view in b.views)
    p1, p2 = (net.predictor(net.projector(net.encoder(view))).detach().numpy() for view in b.views)

    def squared(p, z):
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (p, z)]
        return ((unit[0] - unit[1]) ** 2).sum(axis=1).mean()

    statistics = {name: value.clone() for name, value in s.target.named_buffers()}
    loss = s.losses(s.net, b)["loss"]
    assert loss.item() == pytest.approx(squared(p1, z2) + squared(p2, z1), rel=1e-10)
    assert not any(module.training for module in s.target.modules())
    assert all(torch.equal(value, statistics[name]) for name, value in s.target.named_buffers())


def test_the_target_follows_by_the_papers_schedule():
    """tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2, written out at three steps of K = 3000."""
    s = byol()
    assert s.steps == 1000 * 3
    for k, tau in ((0, 0.996), (1500, 0.998), (3000, 1.0)):
        before = s.target.encoder.conv1.weight.clone()
        s.after_step(Clock(step=k + 1))
        expected = tau * before + (1 - tau) * s.net.encoder.conv1.weight
        torch.testing.assert_close(s.target.encoder.conv1.weight, expected, rtol=1e-12, atol=0)
    assert "predictor" not in dict(s.target.named_children())


def test_the_target_gets_no_gradient():
    s = byol()
    s.losses(s.net, batch(views=2, dtype=torch.float64))["loss"].backward()
    assert all(p.grad is None for p in s.target.parameters())
    assert all(p.grad is not None for p in s.net.parameters())
