from dataclasses import replace

import numpy as np
import pytest
import torch
from support.recipe import batch_for, stage

from dist_rmd.config import sections
from dist_rmd.stages.dfad import DFADConfig


def doubled(*overrides):
    s = stage("dfad", *overrides)
    for net in (s.net, s.teacher):
        net.double()
    return s


def test_student_and_generator_play_for_the_same_distance():
    """Mean over images and classes of |t - s|, in numpy float64; the generator's step is the last of a round."""
    s = doubled("dfad.student_steps=3")
    b = batch_for(s, dtype=torch.float64)
    with torch.no_grad():
        images = s.net["generator"](*b.views)
        teacher, student = (net(images)[0].numpy() for net in (s.teacher, s.net["student"]))
    distance = np.mean([abs(t - u) for rows in zip(teacher, student, strict=True) for t, u in zip(*rows, strict=True)])
    for number in range(8):
        terms = s.losses(s.net, replace(b, number=number))
        turn = s.trained(replace(b, number=number))
        assert turn is s.net["generator" if number in (3, 7) else "student"]
        assert terms["loss"].item() == pytest.approx(-distance if number in (3, 7) else distance, rel=1e-10)


def test_the_generator_is_told_through_both_networks():
    """Its gradient is that of the distance, to which teacher and student both contribute."""
    s = doubled()
    b = replace(batch_for(s, dtype=torch.float64), number=5)
    s.losses(s.net, b)["loss"].backward(inputs=list(s.net["generator"].parameters()))
    images = s.net["generator"](*b.views)
    distance = (s.teacher(images)[0] - s.net["student"](images)[0]).abs().mean()
    expected = torch.autograd.grad(distance, list(s.net["generator"].parameters()))
    for parameter, gradient in zip(s.net["generator"].parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, -gradient, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in s.net["student"].parameters())


def test_defaults_are_those_of_the_authors_code():
    c = sections.parse(None, []).section(DFADConfig)
    assert (c.epochs, c.rounds, c.student_steps, c.batch_size, c.latent) == (500, 50, 5, 256, 256)
    assert (c.lr, c.momentum, c.weight_decay, c.generator_lr) == (0.1, 0.9, 5e-4, 1e-3)
    assert (c.schedule, c.milestones, c.gamma) == ("step", (100, 200), 0.1)
    assert len(stage("dfad", "dfad.rounds=7").batches(Loader(), None, 0)) == 7 * 6


class Loader:
    """In place of the run's loaders: says how long an epoch would be."""

    def latents(self, dims, batch_size, steps, seed):
        return range(steps)
