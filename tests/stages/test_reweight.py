from pathlib import Path

import numpy as np
import pytest
import torch
from support import small
from support.recipe import batch, stage
from support.whole_runs import assert_same, stopped

from dist_rmd.config import sections
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.resolved import check
from dist_rmd.pipeline.session import StageSession, placed
from dist_rmd.run import artefacts

T = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.0, 0.1, 0.9]], dtype=torch.float64)


def test_the_loss_is_the_authors_formula():
    s, b = stage("reweight", "reweight.warmup=1", "reweight.most=1.3"), batch(dtype=torch.float64)
    s.net.double()
    s.memory["transition"].copy_(T)
    losses, weights = [], []
    for z, y in zip(10 * s.net(b.views[0])[0].detach().numpy(), b.labels.tolist(), strict=True):
        p = np.exp(z) / np.exp(z).sum()
        weights.append(min(1.3, p[y] / sum(p[i] * T.numpy()[i, y] for i in range(3))))
        losses.append(-weights[-1] * np.log(p[y]))
    s.net.head.weight.data *= 10
    s.net.head.bias.data *= 10
    found = s.losses(s.net, b)
    assert found["loss"].item() == pytest.approx(np.mean(losses), rel=1e-10)
    assert found["weight"].item() == pytest.approx(np.mean(weights), rel=1e-10)
    assert 0 < sum(weight == 1.3 for weight in weights) < 10


def test_weights_have_no_gradient():
    """That of the mean of w CE is w (p - y) / b."""
    s, b = stage("reweight", "reweight.warmup=1"), batch(dtype=torch.float64)
    s.net.double()
    s.memory["transition"].copy_(T)
    p = s.net(b.views[0])[0].detach().softmax(1)
    y = torch.eye(3, dtype=torch.float64)[b.labels]
    w = (p * y).sum(1) / (p @ T * y).sum(1)
    s.losses(s.net, b)["loss"].backward()
    torch.testing.assert_close(s.net.head.bias.grad, (w[:, None] * (p - y) / 10).sum(0))


def test_before_the_matrix_is_known_it_is_cross_entropy():
    s, b, plain = stage("reweight", "reweight.warmup=3"), batch(), stage("classifier")
    s.memory["transition"].copy_(T)
    assert s.losses(s.net, b)["loss"].item() == plain.losses(plain.net, b)["loss"].item()


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [*small.RECIPE, "stages=[reweight]", f"data.path={data}", "data.reader=memory", "name=a", "task.epochs=3"]


@pytest.fixture(scope="module")
def straight(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    assert main([*command, f"out={out}"]) == 0
    return out


def test_the_matrix_is_what_the_network_predicts_after_the_first_epochs(command, straight):
    """A run of the warm-up alone ends with the network that the matrix was read from, at a constant learning rate."""
    found = artefacts.load(straight / "a" / "reweight" / "artefact.pt")["transition"]
    torch.testing.assert_close(found.sum(1), torch.ones(10, dtype=torch.float64))
    config = sections.parse(None, [*command, f"out={straight}"])
    plan = check(config, force=True)
    session = StageSession(plan, placed(plan, "reweight", {}), plan.source())
    s = session.stage
    for epoch in range(2):  # one to learn, one whose start estimates
        s.net.train()
        s.start_epoch()
        for b in session.batches.epoch(epoch) if epoch == 0 else ():
            session.updater.backward(s.losses(s.net, b)["loss"], session.clock)
            session.updater.step()
            session.clock.tick()
    assert s.net.training
    assert torch.equal(s.memory["transition"], found)


def test_stopped_twice_it_ends_with_the_same_bits(command, straight, tmp_path):
    """Within the first epoch, and when the matrix has been estimated."""
    arguments = [*command, f"out={tmp_path}"]
    assert [stopped(arguments, "reweight", step) for step in (2, 6)] == [75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight / "a", "reweight")


def test_a_class_that_no_image_is_labelled_with_is_named(command, tmp_path, capsys):
    data = next(word.partition("=")[2] for word in command if word.startswith("data.path="))
    labels, dataset = tmp_path / "labels.csv", open_dataset(Path(data))
    rows = [f"{file},{number % 9}" for number, file in enumerate(dataset.files("train"))]
    labels.write_text("\n".join(["file,label", *rows]))
    words = [*command, f"out={tmp_path}", "noise.kind=file", "noise.rate=0", f"noise.file={labels}"]
    assert main(words) == DataError.code
    assert "no image is labelled 9 (of classes 0..9)" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["warmup=0", "drop=1", "drop=-0.1", "most=0"])
def test_impossible_values_are_named(value):
    with pytest.raises(ConfigError, match=f"reweight.{value.partition('=')[0]}"):
        stage("reweight", f"reweight.{value}")


def test_a_warmup_that_leaves_no_epoch_is_refused(command, tmp_path):
    with pytest.raises(ConfigError, match=r"reweight.warmup=3 leaves none of task.epochs=3"):
        check(sections.parse(None, [*command, f"out={tmp_path}", "reweight.warmup=3"]))
