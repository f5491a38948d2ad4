import numpy as np
import pytest
import torch
from support import small
from support.forked import on_ranks
from support.recipe import batch, stage
from support.whole_runs import assert_same, stopped

from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.errors import ConfigError
from dist_rmd.pipeline.command import main
from dist_rmd.run.artefacts import load


def authors(targets, logits, labels, rows, lam, beta):
    """The loss of the authors' code, row by row in numpy float64; `targets` (N x C) is changed as there."""
    ce, early = [], []
    for logit, label, row in zip(logits, labels, rows, strict=True):
        p = np.exp(logit) / np.exp(logit).sum()
        clamped = np.clip(p, 1e-4, 1 - 1e-4)
        targets[row] = beta * targets[row] + (1 - beta) * clamped / clamped.sum()
        ce.append(-np.log(p[label]))
        early.append(np.log(1 - targets[row] @ clamped))
    return np.mean(ce) + lam * np.mean(early), np.mean(early)


@pytest.mark.parametrize(("lam", "beta"), [(3.0, 0.7), (7.0, 0.9), (1.0, 0.0)])
def test_three_steps_are_those_of_the_authors_formula(lam, beta):
    s = stage("elr", f"elr.lam={lam}", f"elr.beta={beta}")
    s.net.double()
    s.memory = {"targets": s.memory["targets"].double()}
    expected = np.zeros((30, 3))
    for seed in range(3):  # the same ten images each time
        b = batch(dtype=torch.float64, seed=seed)
        logits = 20 * s.net(b.views[0])[0].detach().numpy()  # some of them beyond what probabilities are clamped to
        s.net.head.weight.data *= 20
        s.net.head.bias.data *= 20
        loss, early = authors(expected, logits, b.labels.numpy(), b.rows.numpy(), lam, beta)
        found = s.losses(s.net, b)
        s.net.head.weight.data /= 20
        s.net.head.bias.data /= 20
        assert found["loss"].item() == pytest.approx(loss, rel=1e-10)
        assert found["loss_early"].item() == pytest.approx(early, rel=1e-10)
        np.testing.assert_allclose(s.memory["targets"].numpy(), expected, rtol=1e-10, atol=1e-14)


def test_the_gradient_takes_targets_as_constants():
    """d log(1 - <t, p>) / dz is -(t - <t, p>) p / (1 - <t, p>) for softmax p; that of cross entropy is p - y."""
    s, b = stage("elr", "elr.lam=3", "elr.beta=0.7"), batch(dtype=torch.float64)
    s.net.double()
    s.memory = {"targets": torch.full((30, 3), 0.3, dtype=torch.float64)}
    logits = s.net(b.views[0])[0].detach()
    p = logits.softmax(1)
    t = 0.7 * 0.3 + 0.3 * p
    inner = (t * p).sum(1, keepdim=True)
    slope = (p - torch.eye(3, dtype=torch.float64)[b.labels] - 3 * (t - inner) * p / (1 - inner)) / 10
    s.losses(s.net, b)["loss"].backward()
    torch.testing.assert_close(s.net.head.bias.grad, slope.sum(0), rtol=1e-9, atol=1e-12)


def test_without_weight_it_is_cross_entropy():
    s, b = stage("elr", "elr.lam=0"), batch()
    plain = stage("classifier")
    assert s.losses(s.net, b)["loss"].item() == plain.losses(plain.net, b)["loss"].item()


@pytest.mark.parametrize("value", ["lam=-1", "beta=1.1"])
def test_impossible_values_are_named(value):
    with pytest.raises(ConfigError, match=f"elr.{value.partition('=')[0]}"):
        stage("elr", f"elr.{value}")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [*small.RECIPE, "stages=[elr]", f"data.path={data}", "data.reader=memory", "name=a"]


@pytest.mark.parametrize(
    "words", ["elr", "rgrl_elr relation.teacher=random", "sop sop.consistency=0.9 sop.balance=0.1"]
)
def test_what_is_kept_of_each_image_goes_on_with_the_same_bits(command, words, tmp_path):
    name, *settings = words.split()
    command = [*command, f"stages=[{name}]", *settings]
    assert main([*command, f"out={tmp_path / 'straight'}"]) == 0
    arguments = [*command, f"out={tmp_path}"]
    assert [stopped(arguments, name, step) for step in (3, 6)] == [75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", tmp_path / "straight" / "a", name)


@pytest.mark.slow
def test_two_ranks_are_one(command, tmp_path):
    arguments = [*command, "precision=fp64", "task.batch_size=49", "task.lr=0.001"]
    assert main([*arguments, f"out={tmp_path / 'one'}"]) == 0
    on_ranks(2, "seam", *arguments, f"out={tmp_path / 'two'}")
    states = [Checkpoints(tmp_path / out / "a" / "elr" / "checkpoints", 2).load_newest() for out in ("one", "two")]
    assert states[0]["memory"]["targets"].dtype == torch.float64
    for part in ("net", "memory"):
        torch.testing.assert_close(states[1][part], states[0][part], rtol=1e-8, atol=1e-10)
    assert (
        load(tmp_path / "one" / "a" / "elr" / "artefact.pt")["key"]
        == load(tmp_path / "two" / "a" / "elr" / "artefact.pt")["key"]
    )
