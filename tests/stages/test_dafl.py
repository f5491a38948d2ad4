import numpy as np
import pytest
import torch
from support.recipe import batch, batch_for, stage

from dist_rmd.config import sections
from dist_rmd.errors import ConfigError
from dist_rmd.stages.dafl import DAFLConfig, negative_entropy


def doubled(*overrides):
    s = stage("dafl", *overrides)
    for net in (s.net, s.teacher):
        net.double()
    return s


def softmax(logits):
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


def authors(logits, features, student, c):
    """The loss of the authors' code, in numpy float64."""
    one_hot = np.mean([-np.log(p[p.argmax()]) for p in softmax(logits)])
    mean = softmax(logits).mean(axis=0)
    entropy = (mean * np.log10(mean)).sum()
    activation = -np.abs(features).mean()
    p, q = softmax(logits), softmax(student)
    kd = (p * (np.log(p) - np.log(q))).sum() / len(p)
    return c.oh * one_hot + c.beta * entropy + c.alpha * activation + kd, one_hot, entropy, activation, kd


def test_a_class_of_probability_zero_has_no_entropy_and_a_finite_gradient():
    logits = torch.tensor([[0.0, 200.0, 0.0], [0.0, 200.0, 1.0]], requires_grad=True)
    assert logits.softmax(dim=1)[0, 0] == 0
    entropy = negative_entropy(logits, batch(size=2))
    entropy.backward()
    assert entropy.item() == 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("constants", [(), ("dafl.oh=0.5", "dafl.alpha=0.1", "dafl.beta=20")])
def test_loss_is_the_authors_formula(constants):
    s = doubled(*constants)
    b = batch_for(s, dtype=torch.float64)
    terms = s.losses(s.net, b)
    with torch.no_grad():
        images = s.net["generator"](*b.views)
        logits, features = (out.numpy() for out in s.teacher(images))
        student = s.net["student"](images)[0].numpy()
    expected = authors(logits, features, student, s.config)
    names = ("loss", "loss_onehot", "loss_entropy", "loss_activation", "loss_kd")
    for name, value in zip(names, expected, strict=True):
        assert terms[name].item() == pytest.approx(value, rel=1e-10), name


def test_the_student_teaches_the_generator_nothing():
    """The gradient of the generator is that of its own three terms."""
    s = doubled()
    b = batch_for(s, dtype=torch.float64)
    s.losses(s.net, b)["loss"].backward()
    found = [p.grad.clone() for p in s.net["generator"].parameters()]
    logits, features = s.teacher(s.net["generator"](*b.views))
    mean = logits.softmax(1).mean(0)
    own = (
        s.config.oh * torch.nn.functional.cross_entropy(logits, logits.argmax(1))
        - s.config.alpha * features.abs().mean()
        + s.config.beta * (mean * mean.log10()).sum()
    )
    for grad, expected in zip(found, torch.autograd.grad(own, list(s.net["generator"].parameters())), strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)


def test_defaults_are_those_of_the_authors_code():
    c = sections.parse(None, []).section(DAFLConfig)
    assert (c.epochs, c.steps, c.batch_size, c.latent) == (2000, 120, 1024, 1000)
    assert (c.lr, c.momentum, c.weight_decay, c.generator_lr) == (0.1, 0.9, 5e-4, 0.02)
    assert (c.schedule, c.milestones, c.gamma) == ("step", (800, 1600), 0.1)
    assert (c.oh, c.alpha, c.beta) == (0.05, 0.01, 5)
    groups = stage("dafl").param_groups()
    assert [(group.get("optimizer"), group.get("constant_lr")) for group in groups] == [(None, None), ("adam", True)]


@pytest.mark.parametrize("value", ["oh=-1", "alpha=-1", "beta=-1", "steps=0", "latent=0", "generator_lr=0"])
def test_impossible_values_are_named(value):
    with pytest.raises(ConfigError, match=f"dafl.{value.partition('=')[0]}"):
        stage("dafl", f"dafl.{value}")
