from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import small
from support.forked import on_ranks
from support.recipe import batch, relabelled, softened, stage
from support.whole_runs import assert_same, stopped

from dist_rmd.config import determinants, sections
from dist_rmd.data.labels.view import LabelView
from dist_rmd.distill import mixup
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.clock import Clock
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.resolved import check
from dist_rmd.pipeline.session import StageSession, placed
from dist_rmd.run import artefacts
from dist_rmd.stages._task import TaskConfig
from dist_rmd.stages.rgrl import RGRL

OPENSET = (
    "noise.rate=0", "noise.kind=openset", "noise.rho1=0.5", "noise.rho2=0.5", "teacher.epochs=8",
    "division.evidence=exp", "task.divided=true",
)  # fmt: skip


def cross_entropy(logits, labels):
    """Image by image, in numpy float64."""
    return np.array([np.log(np.exp(z).sum()) - z[y] for z, y in zip(logits, labels, strict=True)])


def test_mixed_images_are_learned_under_both_labels():
    s, b = stage("classifier", "task.mixup=1"), batch(dtype=torch.float64)
    s.net.double()
    drawn = mixup.draw(s.draws, b.epoch, b.number, 10, 1.0)
    w, j = drawn.weight, drawn.partner
    logits = s.net(w * b.views[0] + (1 - w) * b.views[0][j])[0].detach().numpy()
    expected = w * cross_entropy(logits, b.labels) + (1 - w) * cross_entropy(logits, b.labels[j])
    terms = s.losses(s.net, b)
    assert terms["loss"].item() == pytest.approx(expected.mean(), rel=1e-10)
    assert "fitted_wrong" not in terms  # of a mixed image nobody can say which label it shows


@pytest.mark.parametrize("mixup_delta", [0, 8])
@pytest.mark.parametrize("loss", ["ce", "gce"])
def test_soft_labels_are_the_expected_loss_over_all_classes(mixup_delta, loss):
    words = ("task.relabel=true", f"task.mixup={mixup_delta}", f"loss.name={loss}")
    s, b = stage("classifier", *words, relabel=softened()), batch(dtype=torch.float64)
    s.net.double()
    w, j = 1.0, torch.arange(10)
    if mixup_delta:
        drawn = mixup.draw(s.draws, b.epoch, b.number, 10, 8.0)
        w, j = drawn.weight, drawn.partner
    logits = s.net(w * b.views[0] + (1 - w) * b.views[0][j])[0].detach()
    p = softened()["probabilities"].double().numpy()[b.rows]
    values = np.stack([s.loss(logits, torch.full((10,), c)).numpy() for c in range(3)], axis=1)
    expected = w * (p * values).sum(axis=1) + (1 - w) * (p[j] * values).sum(axis=1)
    assert s.losses(s.net, b)["loss"].item() == pytest.approx(expected.mean(), rel=1e-6)


@pytest.mark.parametrize("mixup_delta", [0, 8])
def test_refined_labels_are_weighted(mixup_delta):
    """The loader brings the refined labels; the weights, of mean 1, are the images'."""
    s, b = stage("classifier", "task.relabel=true", f"task.mixup={mixup_delta}"), batch(dtype=torch.float64)
    s.net.double()
    w, j = 1.0, torch.arange(10)
    if mixup_delta:
        drawn = mixup.draw(s.draws, b.epoch, b.number, 10, 8.0)
        w, j = drawn.weight, drawn.partner
    logits = s.net(w * b.views[0] + (1 - w) * b.views[0][j])[0].detach().numpy()
    weights = relabelled()["weights"].double().numpy()
    weights = (weights / weights.mean())[b.rows]
    own, others = cross_entropy(logits, b.labels), cross_entropy(logits, b.labels[j])
    expected = w * weights * own + (1 - w) * weights[j] * others
    assert s.losses(s.net, b)["loss"].item() == pytest.approx(expected.mean(), rel=1e-6)


def test_refined_labels_are_what_is_learned_if_they_are_of_the_same_images():
    s, labels, device = stage("classifier", "task.relabel=true"), np.arange(30) % 3, torch.device("cpu")
    s.prepare(SimpleNamespace(device=device), LabelView(np.arange(30), labels, labels, 3))
    assert s.learned.given.tolist() == ((np.arange(30) + 1) % 3).tolist()
    assert s.learned.rows.tolist() == list(range(30))
    with pytest.raises(DataError, match="refined labels are of other images"):
        s.prepare(SimpleNamespace(device=device), LabelView(np.arange(1, 31), labels, labels, 3))


def test_the_network_starts_from_a_label_free_encoder_and_its_average_with_it():
    s, at_random = stage("classifier", "task.init_from=simsiam", "task.average=0.9"), stage("classifier")
    learned = stage("rgrl").teacher
    for net in (s.net, s.averages["average"]):
        for mine, theirs in zip(net.encoder.state_dict().values(), learned.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)
    assert torch.equal(s.net.head.weight, at_random.net.head.weight)
    assert not torch.equal(s.net.encoder.conv1.weight, at_random.net.encoder.conv1.weight)
    assert RGRL.needs(sections.parse(None, ["task.init_from=simsiam"])) == ("simsiam",)  # once, for both purposes


def test_an_image_has_one_label():
    with pytest.raises(ConfigError, match=r"task\.divided and task\.relabel"):
        stage("classifier", "task.divided=true", "task.relabel=true")


@pytest.mark.parametrize("name", ["classifier", "rgrl"])
def test_the_moving_average_is_what_is_evaluated(name):
    s = stage(name, "task.average=0.75", *(["relation.init_from_teacher=true"] if name == "rgrl" else []))
    start = s.net.encoder.conv1.weight.detach().clone()
    with torch.no_grad():
        s.net.encoder.conv1.weight.add_(1)
    s.after_step(Clock())
    nets = s.eval_nets()
    assert nets["network"] is s.net
    torch.testing.assert_close(nets[""].encoder.conv1.weight, start + 0.25)
    assert set(s.artefact()) == {"encoder", "head", "others"}
    assert stage(name).eval_nets().keys() == {""}


def test_a_teachers_features_stand_beside_the_method():
    s, b = stage("classifier", "task.kd=0.9"), batch(dtype=torch.float64)
    s.net.double()
    s.guide.double()
    logits, _, hint, _ = (out if out is None else out.detach().numpy() for out in s.net(b.views[0]))
    taught = s.guide.encoder(b.views[0]).detach().numpy()
    expected = 0.1 * cross_entropy(logits, b.labels).mean() + 0.9 * ((hint - taught) ** 2).mean(axis=1).mean()
    found = s.losses(s.net, b)
    assert found["loss"].item() == pytest.approx(expected, rel=1e-10)
    found["loss"].backward()
    assert all(parameter.grad is not None for parameter in s.net.parameters())
    assert all(parameter.grad is None for parameter in s.guide.parameters())


def test_elr_remembers_what_is_said_of_images_unmixed():
    s, b = stage("elr", "task.mixup=1", "elr.beta=0.5"), batch()
    plain = stage("elr", "elr.beta=0.5")
    mixed, unmixed = (one.losses(one.net, b)["loss"].item() for one in (s, plain))
    torch.testing.assert_close(s.memory["targets"], plain.memory["targets"])
    assert mixed != unmixed


def test_running_statistics_are_of_what_is_learned():
    """ELR looks at unmixed images besides, which leaves no trace."""
    s, b = stage("elr", "task.mixup=1"), batch()
    s.losses(s.net, b)
    assert {int(n) for name, n in s.net.state_dict().items() if name.endswith("num_batches_tracked")} == {1}


def test_keys_at_their_defaults_are_in_no_artefacts_key():
    assert not {"mixup", "divided", "kd", "relabel", "average"} & determinants(TaskConfig()).keys()
    assert determinants(TaskConfig(mixup=8.0))["mixup"] == 8.0


def test_what_a_stage_needs():
    def needs(name, *words):
        s = stage(name, *words)
        return type(s).needs(type(s).scope(sections.parse(None, words)))

    assert needs("classifier") == ()
    assert needs("classifier", "task.kd=0.9") == ("teacher",)
    assert needs("elr", "task.kd=0.9", "task.divided=true") == ("teacher", "division")
    assert needs("rgrl", "task.divided=true") == ("simsiam", "division")
    assert needs("rgrl", "task.relabel=true") == ("simsiam", "relabel")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"), open_images=100)
    return [*small.RECIPE, f"data.path={data}", "data.reader=memory", "name=a", *OPENSET]


@pytest.fixture(scope="module")
def divided(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("divided")
    assert main([*command, "stages=[teacher,division,elr]", "task.mixup=8", "task.kd=0.5", f"out={out}"]) == 0
    return out


def test_what_is_learned_is_the_divisions_labels_and_no_open_image(command, divided):
    division = artefacts.load(divided / "a" / "division" / "artefact.pt")
    config = sections.parse(None, [*command, "stages=[teacher,division,elr]", f"out={divided}"])
    plan = check(config, force=True)
    inputs = {"division": division}
    session = StageSession(plan, placed(plan, "elr", inputs), plan.source())
    labels = dict(zip(division["indices"].tolist(), division["labels"].tolist(), strict=True))
    kept = {index for index, s in zip(division["indices"].tolist(), division["sets"].tolist(), strict=True) if s != 2}
    seen = [pair for b in session.batches.epoch(0) for pair in zip(b.indices.tolist(), b.labels.tolist(), strict=True)]
    assert 0 < len(kept) < len(labels)
    assert {index for index, _ in seen} <= kept
    assert all(labels[index] == label for index, label in seen)


def test_stopped_within_mixed_and_divided_epochs_it_ends_with_the_same_bits(command, divided, tmp_path):
    arguments = [*command, "stages=[teacher,division,elr]", "task.mixup=8", "task.kd=0.5", f"out={tmp_path}"]
    assert [stopped(arguments, "elr", step) for step in (1, 2)] == [75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", divided / "a", "elr")


def test_a_division_of_other_images_is_refused(command, divided):
    config = sections.parse(None, [*command, "stages=[teacher,division,elr]", f"out={divided}", "data.per_class=10"])
    plan = check(config, force=True)
    division = artefacts.load(divided / "a" / "division" / "artefact.pt")
    with pytest.raises(DataError, match="the division is of other images"):
        StageSession(plan, placed(plan, "elr", {"division": division}), plan.source())


METHODS = ("reweight", "d2l", "war", "cleot", "sop", "dividemix")


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_of_every_method_is_the_same_on_any_number_of_ranks(tmp_path, ranks):
    """Past warm-up, estimate, turning point and division; ELR and the losses have runs of their own."""
    data = small.prepare(tmp_path)
    arguments = [
        *small.RECIPE, f"data.path={data}", "data.reader=memory", "name=a", f"stages=[{','.join(METHODS)}]",
        "precision=fp64", "task.batch_size=49", "task.lr=0.001", "d2l.init_epochs=1", "d2l.window=1",
        "sop.consistency=0.9", "sop.balance=0.1", "dividemix.warmup=1",
    ]  # fmt: skip
    assert main([*arguments, f"out={tmp_path / 'one'}"]) == 0
    on_ranks(ranks, "seam", *arguments, f"out={tmp_path / 'many'}")
    for method in METHODS:
        one, many = (
            Checkpoints(tmp_path / out / "a" / method / "checkpoints", 2).load_newest() for out in ("one", "many")
        )
        for part in ("net", "averages", "memory"):
            torch.testing.assert_close(many[part], one[part], rtol=1e-6, atol=1e-8, msg=lambda m, n=method: f"{n}: {m}")
