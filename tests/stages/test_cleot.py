import numpy as np
import ot
import pytest
import torch
from support import small
from support.recipe import batch, stage
from support.whole_runs import assert_same, stopped

from dist_rmd.errors import ConfigError
from dist_rmd.pipeline.command import main

UNTIL = {"method": "sinkhorn_log", "numItermax": 20000, "stopThr": 1e-14}  # of ot.sinkhorn: converged
CONVERGED = ("cleot.warmup=0", "cleot.reg=0.5", "cleot.iterations=5000")


def costs(s, b, alpha):
    """alpha |g_i - g_j|^2 + CE(y_i, f_j), pair by pair in numpy float64."""
    logits, features = (out.detach().numpy() for out in s.net(b.views[0]))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    pairs = [
        [alpha * ((g - h) ** 2).sum() - log[y] for h, log in zip(features, log_p, strict=True)]
        for g, y in zip(features, b.labels.tolist(), strict=True)
    ]
    return np.array(pairs)


def test_the_loss_is_that_of_the_transport_plan_of_pot():
    s, b = (
        stage("cleot", "cleot.warmup=0", "cleot.alpha=0.3", "cleot.reg=0.5", "cleot.iterations=5000"),
        batch(dtype=torch.float64),
    )
    s.net.double()
    cost = costs(s, b, 0.3)
    # torch's median of an even number of values is the lower one of the middle two
    reg = 0.5 * np.sort(cost.ravel())[49]
    share = np.full(10, 0.1)
    gamma = ot.sinkhorn(share, share, cost, reg, **UNTIL)
    found = s.losses(s.net, b)
    assert found["loss"].item() == pytest.approx((gamma * cost).sum(), rel=1e-7)
    assert found["sinkhorn_error"].item() < 1e-8


def test_the_plan_has_no_gradient():
    """With it fixed, that of sum gamma_ij CE(y_i, f_j) in the head's bias is sum_j (p_j / B - sum_i gamma_ij y_i)."""
    s, b = (
        stage("cleot", "cleot.warmup=0", "cleot.alpha=0", "cleot.reg=0.5", "cleot.iterations=5000"),
        batch(dtype=torch.float64),
    )
    s.net.double()
    cost = costs(s, b, 0.0)
    share = np.full(10, 0.1)
    reg = 0.5 * np.sort(cost.ravel())[49]
    gamma = torch.from_numpy(ot.sinkhorn(share, share, cost, reg, **UNTIL))
    p, y = s.net(b.views[0])[0].detach().softmax(1), torch.eye(3, dtype=torch.float64)[b.labels]
    s.losses(s.net, b)["loss"].backward()
    torch.testing.assert_close(s.net.head.bias.grad, (p / 10 - gamma.T @ y).sum(0), rtol=1e-6, atol=1e-10)


def test_with_a_small_entropy_and_features_far_apart_it_is_cross_entropy():
    s, b = stage("cleot", "cleot.warmup=0", "cleot.alpha=1000", "cleot.reg=0.01"), batch(dtype=torch.float64)
    plain = stage("classifier")
    for one in (s, plain):
        one.net.double()
    assert s.losses(s.net, b)["loss"].item() == pytest.approx(plain.losses(plain.net, b)["loss"].item(), rel=1e-4)


def test_in_the_first_epochs_it_is_cross_entropy():
    s, b, plain = stage("cleot", "cleot.warmup=3"), batch(), stage("classifier")
    assert s.losses(s.net, b)["loss"].item() == plain.losses(plain.net, b)["loss"].item()


def test_half_precision_stays_finite():
    s, b = stage("cleot", "cleot.warmup=0"), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = s.losses(s.net, b)
    assert found["loss"].dtype == torch.float32
    assert found["loss"].isfinite()


def test_sinkhorn_that_has_not_converged_is_said():
    s = stage("cleot")
    assert s.warning({"train/sinkhorn_error": 0.01}) is None
    said = s.warning({"train/sinkhorn_error": 0.3})
    assert said == (
        "Sinkhorn has not converged: images are missed by 30.0% of their mass; raise cleot.iterations or cleot.reg"
    )
    assert s.warning({"train/sinkhorn_error": 0.3}) is None  # said once
    assert "collapsed" in s.warning({"test/predicted_classes": 1})


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [*small.RECIPE, "stages=[cleot]", f"data.path={data}", "data.reader=memory", "name=a"]


def test_stopped_twice_it_ends_with_the_same_bits(command, tmp_path):
    assert main([*command, f"out={tmp_path / 'straight'}"]) == 0
    arguments = [*command, f"out={tmp_path}"]
    assert [stopped(arguments, "cleot", step) for step in (3, 6)] == [75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", tmp_path / "straight" / "a", "cleot")


def test_one_iteration_is_told_on_the_console(command, tmp_path, capsys):
    words = ["cleot.iterations=1", "cleot.warmup=0", "cleot.reg=0.01", "task.epochs=1"]
    assert main([*command, *words, f"out={tmp_path}"]) == 0
    assert "cleot: Sinkhorn has not converged" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["alpha=-1", "reg=0", "iterations=0", "warmup=-1"])
def test_impossible_values_are_named(value):
    with pytest.raises(ConfigError, match=f"cleot.{value.partition('=')[0]}"):
        stage("cleot", f"cleot.{value}")
