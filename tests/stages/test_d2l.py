import copy

import numpy as np
import pytest
import torch
from support import small
from support.recipe import batch, stage
from support.whole_runs import assert_same, stopped

from dist_rmd.config import sections
from dist_rmd.distill.lid import chosen, lid
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.errors import ConfigError
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.resolved import check
from dist_rmd.pipeline.session import StageSession, placed

TURN_EARLY = ("d2l.init_epochs=1", "d2l.window=1", "task.epochs=5", "task.lr=0.02")


def test_the_loss_is_the_papers_equation():
    s, b = stage("d2l"), batch(dtype=torch.float64)
    s.net.double()
    s.memory["alpha"].fill_(0.7)
    losses = []
    for z, y in zip(s.net(b.views[0])[0].detach().numpy(), b.labels.tolist(), strict=True):
        log_p = z - np.log(np.exp(z).sum())
        target = 0.7 * np.eye(3)[y] + 0.3 * np.eye(3)[z.argmax()]
        losses.append(-(target * log_p).sum())
    assert s.losses(s.net, b)["loss"].item() == pytest.approx(np.mean(losses), rel=1e-10)


def test_before_the_turning_point_it_is_cross_entropy():
    s, b, plain = stage("d2l"), batch(), stage("classifier")
    assert s.losses(s.net, b)["loss"].item() == plain.losses(plain.net, b)["loss"].item()


def test_before_the_turning_point_it_may_be_the_loss_of_the_authors_repository():
    s, b = stage("d2l", "d2l.before=sce"), batch(dtype=torch.float64)
    s.net.double()
    with torch.no_grad():
        p = s.net(b.views[0])[0].softmax(1).numpy()[np.arange(10), b.labels.numpy()]
    expected = (-0.1 * np.log(p) - np.log(1e-4) * (1 - p)).mean()
    assert s.losses(s.net, b)["loss"].item() == pytest.approx(expected, rel=1e-10)
    s.memory["turned"].fill_(1)
    assert s.losses(s.net, b)["loss"].item() == pytest.approx(-np.log(p).mean(), rel=1e-10)  # alpha is 1


def authors(lids, epochs, init, window):
    """(epoch of the turning point or None, alpha of every epoch) from the LIDs, as the authors' callback has it."""
    turned, alphas = None, []
    for epoch in range(len(lids)):
        seen = lids[: epoch + 1]
        if turned is None and len(seen) > init + window:
            last = seen[-window - 1 : -1]
            if seen[-1] - np.mean(last) > 2 * np.std(last):
                turned = epoch
        alphas.append(1.0 if turned is None else np.exp(-epoch / epochs * seen[-1] / min(seen)))
    return turned, alphas


@pytest.mark.parametrize(
    "lids",
    [
        [9, 8, 7, 6, 5, 5.1, 5, 5.1, 5, 5.1, 5.2, 5.0, 5.1, 7, 6, 8],  # turns at 13
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 30, 12],  # at 10, the first epoch that may
        [9.0 - 0.1 * i for i in range(15)],  # never
    ],
)
def test_the_turning_point_and_the_pace_are_the_authors(lids, monkeypatch):
    s = stage("d2l", "task.epochs=40")
    monkeypatch.setattr(s, "_dimensionality", lambda epoch: torch.tensor(float(lids[epoch]), dtype=torch.float64))
    turned, alphas = authors(lids, 40, 5, 5)
    states = []
    for epoch, alpha in enumerate(alphas):
        s.net.head.weight.data.fill_(epoch)  # what the network has become in the epoch before
        s.net.encoder.bn1.running_mean.fill_(epoch)
        s.start_epoch()
        assert s.memory["alpha"].item() == pytest.approx(alpha, rel=1e-12)
        states.append((s.net.head.weight[0, 0].item(), s.net.encoder.bn1.running_mean[0].item()))
    assert bool(s.memory["turned"]) == (turned is not None)
    expected = [epoch - (epoch == turned) for epoch in range(len(lids))]  # it goes back by one epoch, once
    assert states == [(epoch, epoch) for epoch in expected]


def test_an_epoch_of_which_nothing_can_be_told_counts_as_the_one_before(monkeypatch):
    s = stage("d2l")
    found = iter([5.0, 0.0])
    monkeypatch.setattr(s, "_dimensionality", lambda epoch: torch.tensor(next(found), dtype=torch.float64))
    s.start_epoch()
    s.start_epoch()
    assert s.memory["lids"][-2:].tolist() == [5, 5]
    assert s.memory["least"].item() == 5


def test_nothing_is_divided_by_the_dimensionality_of_a_first_epoch_of_which_nothing_can_be_told(monkeypatch):
    s = stage("d2l", "task.epochs=40")
    lids = iter([0.0, *[5.0] * 10, 9.0])
    monkeypatch.setattr(s, "_dimensionality", lambda epoch: torch.tensor(next(lids), dtype=torch.float64))
    for _ in range(12):
        s.start_epoch()
    assert s.memory["turned"].item() == 1
    assert s.memory["alpha"].item() == pytest.approx(np.exp(-11 / 40 * 9 / 5))


def test_the_average_goes_back_with_the_network(monkeypatch):
    s = stage("d2l", "task.epochs=40", "task.average=0.9")
    lids = iter([*[5.0] * 11, 9.0])
    monkeypatch.setattr(s, "_dimensionality", lambda epoch: torch.tensor(next(lids), dtype=torch.float64))
    for epoch in range(12):
        s.classifier.head.weight.data.fill_(epoch)
        s.averages["average"].head.weight.data.fill_(-1)
        s.start_epoch()
    assert s.memory["turned"].item() == 1
    for net in s.eval_nets().values():
        assert torch.equal(net.head.weight, torch.full_like(net.head.weight, 10))


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [*small.RECIPE, *TURN_EARLY, "stages=[d2l]", f"data.path={data}", "data.reader=memory", "name=a"]


def test_the_dimensionality_is_that_of_some_images_in_batches(command, tmp_path):
    words = [*command, "d2l.lid_images=50", "d2l.lid_batch=20", f"out={tmp_path}"]
    plan = check(sections.parse(None, words))
    s = placed(plan, "d2l", {})
    StageSession(plan, s, plan.source())
    rows = chosen(150, 50, s.draws, 3)
    images = torch.cat([b.views[0] for b in s.source.evaluation("train", s.learned.part(np.sort(rows))).epoch(0)])
    features = copy.deepcopy(s.net).eval().encoder(images)[torch.from_numpy(rows.argsort().argsort())]
    parts = [lid(part, 5) for part in features.split(20)]
    assert s._dimensionality(3).item() == pytest.approx(torch.cat(parts).mean().item(), rel=1e-6)
    assert s.net.training


def test_stopped_around_the_turning_point_it_ends_with_the_same_bits(command, tmp_path):
    """Once before it, once between it and the end of its epoch, once after."""
    assert main([*command, f"out={tmp_path / 'straight'}"]) == 0
    state = Checkpoints(tmp_path / "straight" / "a" / "d2l" / "checkpoints", 2).load_newest()
    assert state["memory"]["turned"].item() == 1
    arguments = [*command, f"out={tmp_path}"]
    assert [stopped(arguments, "d2l", step) for step in (3, 9, 14)] == [75, 75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", tmp_path / "straight" / "a", "d2l")


@pytest.mark.parametrize("value", ["k=0", "k=128", "lid_batch=20", "lid_images=20", "window=0"])
def test_impossible_values_are_named(value):
    with pytest.raises(ConfigError, match=f"d2l.{value.partition('=')[0]}"):
        stage("d2l", f"d2l.{value}")


def test_fewer_images_than_neighbours_are_refused(command, tmp_path, capsys):
    words = [*command, f"out={tmp_path}", "data.per_class=1", "noise.rate=0", "task.batch_size=5", "d2l.k=10"]
    assert main(words) == 65
    assert "d2l.k=10 neighbours cannot be found among 10 images" in capsys.readouterr().err
