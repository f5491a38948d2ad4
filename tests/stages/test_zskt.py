from dataclasses import replace

import numpy as np
import pytest
import torch
from support.recipe import batch_for, stage

from dist_rmd.config import sections
from dist_rmd.errors import ConfigError
from dist_rmd.stages.zskt import ZSKTConfig


def doubled(*overrides):
    s = stage("zskt", *overrides)
    for net in (s.net, s.teacher):
        net.double()
    return s


def softmax(logits):
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


def attention(maps):
    """As in the authors' code: mean of squares over channels, as a vector of length 1 for each image."""
    rows = (maps.numpy() ** 2).mean(axis=1).reshape(len(maps), -1)
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("beta", [250, 0, 3])
def test_losses_are_the_authors_formulas(beta):
    s = doubled(f"zskt.beta={beta}", "zskt.student_steps=2")
    b = batch_for(s, dtype=torch.float64)
    with torch.no_grad():
        images = s.net["generator"](*b.views)
        nets = (s.net["student"], s.teacher)
        student, teacher = (net.head(net.encoder(images)).numpy() for net in nets)
        ours, theirs = (net.encoder.stage_maps(images) for net in nets)
    p, q = softmax(teacher), softmax(student)
    divergence = (p * np.log(p / q)).mean()  # over images and classes
    looks = sum(((attention(a) - attention(t)) ** 2).mean() for a, t in zip(ours, theirs, strict=True))
    for number in range(6):
        terms, turn = (call(replace(b, number=number)) for call in (lambda b: s.losses(s.net, b), s.trained))
        assert turn is s.net["student" if number % 3 else "generator"]
        assert terms["loss"].item() == pytest.approx(divergence + beta * looks if number % 3 else -divergence, rel=1e-9)


def test_adam_moves_both():
    groups = stage("zskt", "zskt.lr=0.003").param_groups()
    assert [(group["optimizer"], group["lr"]) for group in groups] == [("adam", 0.003), ("adam", 1e-3)]


def test_networks_of_two_kinds_have_no_places_to_compare():
    with pytest.raises(ConfigError, match=r"zskt\.beta=250 .* by 16 and 8: .* zskt\.beta=0"):
        stage("zskt", "model.name=vgg13")
    s = stage("zskt", "model.name=vgg13", "zskt.beta=0")
    assert set(s.losses(s.net, batch_for(s))) == {"loss", "loss_student"}


def test_networks_that_tell_no_stages_are_named_at_the_start():
    with pytest.raises(ConfigError, match=r"zskt\.beta=250 .* which the student does not tell: .* or zskt\.beta=0"):
        stage("zskt", "model.name=pair/resnet10")
    s = stage("zskt", "model.name=pair/resnet10", "zskt.beta=0")
    assert s.losses(s.net, batch_for(s))["loss"].isfinite()


def test_defaults_are_those_of_the_authors_code():
    c = sections.parse(None, []).section(ZSKTConfig)
    assert c.epochs * c.rounds == 80_000
    assert (c.generator_steps, c.student_steps, c.batch_size, c.latent) == (1, 10, 128, 100)
    assert (c.lr, c.generator_lr, c.grad_clip, c.beta, c.schedule) == (2e-3, 1e-3, 5, 250, "cosine")
