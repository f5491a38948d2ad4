import numpy as np
import pytest
import torch
from support import small
from support.recipe import SHAPE, batch, stage
from support.whole_runs import assert_equal

from dist_rmd import evaluate
from dist_rmd.models.encoder import encoder
from dist_rmd.pipeline.runner import train
from dist_rmd.run import artefacts


def test_it_is_softmax_regression_on_the_frozen_features():
    """Loss and gradient written out in float64."""
    s = stage("probe")
    s.net.double()
    b = batch(dtype=torch.float64)
    s.losses(s.net, b)["loss"].backward()
    body = s.net.encoder
    with torch.no_grad():
        features = body(b.views[0]).numpy()
    weight, bias = (p.detach().numpy() for p in (s.net.head.weight, s.net.head.bias))
    logits = features @ weight.T + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (p - np.eye(SHAPE.classes)[b.labels.numpy()]) / len(p)
    np.testing.assert_allclose(s.net.head.weight.grad, error.T @ features, atol=1e-12)
    np.testing.assert_allclose(s.net.head.bias.grad, error.sum(0), atol=1e-12)
    assert all(parameter.grad is None for parameter in body.parameters())


def test_the_encoder_is_simsiams_and_stays_in_evaluation_mode():
    s = stage("probe")
    torch.manual_seed(99)
    expected = encoder("resnet10", 8).state_dict()  # as support.recipe makes it
    assert_equal(dict(s.net.encoder.state_dict()), dict(expected), "encoder")
    s.net.train()
    assert s.net.head.training
    assert not any(module.training for module in s.net.encoder.modules())
    s.losses(s.net, batch())
    assert_equal(dict(s.net.encoder.state_dict()), dict(expected), "encoder after a step")


def test_defaults_are_mocos():
    o = stage("probe").optimization
    assert (o.epochs, o.batch_size, o.lr, o.lr_scaling, o.momentum, o.weight_decay) == (100, 256, 30, True, 0.9, 0)
    assert o.schedule == "cosine"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    words = [*small.RECIPE, "noise.rate=0", "stages=[simsiam,probe]", "data.reader=memory", "probe.batch_size=50"]
    place = [f"data.path={small.prepare(folder)}", f"out={folder}", "name=a"]
    return train(None, *words, "data.per_class=30", "probe.epochs=30", "task.lr=0.1", *place)


def test_a_run_leaves_simsiams_encoder_under_a_head_that_has_learnt(run, capsys):
    ours, simsiam = (artefacts.load(run.folder.artefact(name)) for name in ("probe", "simsiam"))
    assert_equal(dict(ours["encoder"]), dict(simsiam["encoder"]), "encoder")
    scores = run.scores("probe")
    assert scores[-1]["test/top1"] > 25  # chance is 10
    assert evaluate.main([str(run.path), "--device", "cpu"]) == 0
    assert f"probe  test/top1 {scores[-1]['test/top1']:.2f}" in capsys.readouterr().out
