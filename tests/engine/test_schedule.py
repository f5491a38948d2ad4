import itertools
import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from dist_rmd.config import Optimization
from dist_rmd.engine.schedule import factor, initial_lr


def test_cosine_runs_from_one_to_zero():
    config = Optimization(epochs=10, schedule="cosine")
    assert factor(config, 0, 5) == 1
    assert factor(config, 25, 5) == pytest.approx(0.5)
    assert factor(config, 49, 5) == pytest.approx((1 + math.cos(math.pi * 49 / 50)) / 2)
    assert factor(config, 50, 5) == pytest.approx(0)


def test_steps_fall_on_the_papers_epochs():
    config = Optimization(epochs=240, schedule="step", milestones=(150, 180, 210), gamma=0.1)
    at = {epoch: factor(config, epoch * 7, 7) for epoch in (0, 149, 150, 179, 180, 210, 239)}
    assert at == pytest.approx({0: 1, 149: 1, 150: 0.1, 179: 0.1, 180: 0.01, 210: 0.001, 239: 0.001})
    assert factor(config, 150 * 7 - 1, 7) == 1  # the last step of epoch 149


def test_cosines_begin_anew_at_the_milestones():
    """torch's CosineAnnealingWarmRestarts, and cycles of any length, the last to the end."""
    config = Optimization(epochs=30, schedule="restarts", milestones=(10, 20), gamma=0.05)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = CosineAnnealingWarmRestarts(optimizer, T_0=10, eta_min=0.05)
    for step in range(30 * 7):
        theirs.step(step / 7)
        assert factor(config, step, 7) == pytest.approx(optimizer.param_groups[0]["lr"])
    uneven = Optimization(epochs=9, schedule="restarts", milestones=(4, 12), gamma=0.2, warmup_epochs=1)
    assert [factor(uneven, epoch, 1) for epoch in (1, 4)] == [1, 1]
    assert factor(uneven, 9 * 5, 5) == pytest.approx(0.2)


def test_warm_up_grows_linearly_and_joins_the_schedule():
    config = Optimization(epochs=10, schedule="cosine", warmup_epochs=2)
    factors = [factor(config, step, 5) for step in range(50)]
    rises = [b - a for a, b in itertools.pairwise(factors[:11])]
    assert rises == pytest.approx([1 / 11] * 10)
    assert factors[10] == 1
    assert factors == sorted(factors[:11]) + sorted(factors[11:], reverse=True)


def test_constant():
    assert factor(Optimization(schedule="constant"), 12345, 5) == 1


def test_linear_scaling_with_the_global_batch():
    assert initial_lr(Optimization(lr=0.03, batch_size=512)) == 0.03
    assert initial_lr(Optimization(lr=0.03, batch_size=512, lr_scaling=True)) == pytest.approx(0.06)
