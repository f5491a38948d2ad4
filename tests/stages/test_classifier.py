import pytest
import torch
from stages.recipe import batch, stage

from dist_rmd.errors import ConfigError


def test_loss_is_the_mean_of_the_configured_loss():
    c, b = stage("classifier", "loss.name=gce", "loss.options.q=0.5"), batch()
    logits, _ = c.net(b.views[0])
    p = logits.softmax(dim=1)[torch.arange(10), b.labels]
    assert c.losses(c.net, b)["loss"].item() == pytest.approx(((1 - p**0.5) / 0.5).mean().item(), abs=1e-6)


def test_artefact_is_encoder_and_head():
    assert set(stage("classifier").artefact()) == {"encoder", "head"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss.name=gcee"], ["gcee", "gce"]),
        (["loss.name=gce", "loss.options.q=2"], ["loss.options", "q must be in"]),
        (["loss.name=gce", "loss.options.p=1"], ["loss.options", "'p'"]),
    ],
)
def test_wrong_losses_are_named(overrides, words):
    with pytest.raises(ConfigError) as caught:
        stage("classifier", *overrides)
    assert all(word in str(caught.value) for word in words), caught.value


def test_defaults_are_the_papers():
    o = stage("classifier").optimization
    assert (o.epochs, o.batch_size, o.lr, o.momentum, o.weight_decay) == (240, 64, 0.001, 0.9, 5e-4)
    assert (o.schedule, o.milestones, o.gamma) == ("step", (150, 180, 210), 0.1)
