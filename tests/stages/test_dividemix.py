import copy

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from support import small
from support.recipe import batch_for, stage
from support.whole_runs import assert_same, stopped

from dist_rmd import load_run
from dist_rmd.config import sections
from dist_rmd.distill import mixup
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.resolved import check
from dist_rmd.pipeline.session import StageSession, placed
from dist_rmd.run.artefacts import load
from dist_rmd.stages.dividemix import DivideMix

AFTER = ("dividemix.warmup=1", "task.batch_size=10")  # batches of the tests are of epoch 2, the second half of it


def softmax(logits):
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True)


def doubled(*overrides):
    s = stage("dividemix", *overrides)
    for net in (s.net, *s.averages.values()):
        net.double()
    s.memory["clean"].copy_(torch.rand(2, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    return s


def test_the_loss_is_the_authors_formula():
    """Refined and guessed labels, sharpened; MixMatch; squared distances of guessed labels; the uniform prior."""
    s = doubled(*AFTER, "dividemix.lambda_u=7", "dividemix.rampup=4")
    b = batch_for(s, dtype=torch.float64)
    assert s.trained(b) is s.net["second"]
    learning, other = copy.deepcopy(s.net["second"]), copy.deepcopy(s.net["first"]).eval()

    def said(net, views):
        with torch.no_grad():
            return [softmax(net(view)[0].numpy()) for view in views]

    def sharpened(p):
        return p**2 / (p**2).sum(axis=1, keepdims=True)

    guessed = sharpened(np.mean(said(learning, b.extra.views) + said(other, b.extra.views), axis=0))
    w = s.memory["clean"][0].numpy()[b.rows.numpy()][:, None]  # by the other network
    refined = sharpened(w * np.eye(3)[b.labels.numpy()] + (1 - w) * np.mean(said(learning, b.views), axis=0))
    images = np.concatenate([view.numpy() for view in (*b.views, *b.extra.views)])
    targets = np.concatenate([refined, refined, guessed, guessed])
    mix = mixup.draw(s.draws, b.epoch, b.number, 2 * 10 + 2 * 7, 4.0)
    share, partner = max(mix.weight, 1 - mix.weight), mix.partner.numpy()
    images, targets = (share * rows + (1 - share) * rows[partner] for rows in (images, targets))
    with torch.no_grad():
        p = softmax(learning(torch.from_numpy(images))[0].numpy())
    labelled = -(targets[:20] * np.log(p[:20])).sum(axis=1).mean()
    unlabelled = ((p[20:] - targets[20:]) ** 2).mean()
    prior = (1 / 3 * np.log(1 / 3 / p.mean(axis=0))).sum()
    lam = 7 * (2 + 2 / 3 - 1) / 4  # step 5 of 3 + 3, in epoch 2

    found = s.losses(s.net, b)
    assert found["loss_labelled"].item() == pytest.approx(labelled, rel=1e-9)
    assert found["loss_unlabelled"].item() == pytest.approx(unlabelled, rel=1e-9)
    assert found["loss_prior"].item() == pytest.approx(prior, rel=1e-9)
    assert found["loss"].item() == pytest.approx(labelled + lam * unlabelled + prior, rel=1e-9)
    assert s.net["first"].training


def test_the_warm_up_is_cross_entropy_and_for_asymmetric_noise_its_penalty():
    plain, penalised = doubled(), doubled("dividemix.confidence=1")
    b = batch_for(plain, dtype=torch.float64)
    with torch.no_grad():
        p = softmax(copy.deepcopy(plain.trained(b))(b.views[0])[0].numpy())
    ce = -np.log(p[np.arange(10), b.labels.numpy()]).mean()
    assert plain.losses(plain.net, b)["loss"].item() == pytest.approx(ce, rel=1e-9)
    found = penalised.losses(penalised.net, b)["loss"].item()
    assert found == pytest.approx(ce + (p * np.log(p)).sum(axis=1).mean(), rel=1e-9)


@pytest.mark.parametrize("warmup", [1, 9])
def test_relations_are_those_of_the_images_that_the_network_sees(warmup):
    """RMDNet's loss in numpy: correlations of rows, Frobenius norms, of mixed or, in the warm-up, plain images."""
    settings = (f"dividemix.warmup={warmup}", "task.batch_size=10")
    plain, related = doubled(*settings), doubled(*settings, "dividemix.relation=0.5")
    related.teacher.double()
    related.net.load_state_dict(plain.net.state_dict())
    b, seen = batch_for(plain, dtype=torch.float64), []
    related.teacher.register_forward_hook(lambda net, images, features: seen.append((images[0], features)))
    net = copy.deepcopy(related.net["second"])
    expected, found = (s.losses(s.net, b)["loss"].item() for s in (plain, related))
    ((images, taught),) = seen
    assert len(images) == (34 if warmup == 1 else 10)
    with torch.no_grad():
        own = net(images)[1].numpy()
    t, s = (np.corrcoef(rows) for rows in (taught.numpy(), own))
    both = np.corrcoef(taught.numpy(), own)[: len(images), len(images) :]
    loss = 0.8 * np.linalg.norm(both - np.eye(len(images))) + 0.35 * np.linalg.norm(t - s)
    assert found - expected == pytest.approx(0.5 * loss, rel=1e-6)


def test_relations_need_features_of_one_width():
    with pytest.raises(ConfigError, match=r"dividemix.relation=0.5 compares features one by one, .* are 64 .* 128"):
        stage("dividemix", "dividemix.relation=0.5", "model.width=16")


def test_any_stage_without_labels_teaches_relations():
    words = ["dividemix.relation=0.5", "dividemix.teacher=byol"]
    weights = {key: value + 1 for key, value in encoder("resnet10", 8).state_dict().items()}
    s = stage("dividemix", *words, byol={"encoder": weights, "model": {"name": "resnet10", "width": 8}})
    assert torch.equal(s.teacher.conv1.weight, weights["conv1.weight"])
    needs = [type(s).needs(sections.parse(None, given)) for given in (words, words[1:])]
    assert needs == [("byol",), ()]


def test_what_is_evaluated_is_the_average_of_both_networks():
    s = doubled()
    images = batch_for(s, dtype=torch.float64).views[0]
    nets = [s.net[name].eval() for name in ("first", "second")]
    both = s.eval_nets()[""]
    torch.testing.assert_close(both(images)[0], (nets[0](images)[0] + nets[1](images)[0]) / 2)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [
        *small.RECIPE, "stages=[dividemix]", f"data.path={data}", "data.reader=memory", "name=a", "task.epochs=3",
        "dividemix.warmup=1", "dividemix.rampup=1", "checkpoint.every=2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def straight(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    assert main([*command, f"out={out}"]) == 0
    return out / "a"


def test_stopped_twice_it_ends_with_the_same_bits(command, straight, tmp_path):
    """8 steps an epoch: within the second network's half, and within the first network's of the last epoch."""
    arguments = [*command, f"out={tmp_path}"]
    assert [stopped(arguments, "dividemix", step) for step in (13, 18)] == [75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight, "dividemix")


def test_a_finished_run_predicts_with_both_networks(straight):
    content = load(straight / "dividemix" / "artefact.pt")
    assert content["model"]["name"] == "pair/resnet10"
    assert content["clean"].shape == (2, 150)
    state = Checkpoints(straight / "dividemix" / "checkpoints", 2).load_newest()
    whole, images = load_run(straight).network("dividemix"), torch.randn(4, 3, 8, 8)
    logits = []
    for name in ("first", "second"):
        single = ImageClassifier(encoder("resnet10", 8), 10)
        single.load_state_dict({k[len(name) + 1 :]: v for k, v in state["net"].items() if k.startswith(f"{name}.")})
        logits.append(single.eval()(images)[0])
    torch.testing.assert_close(whole.eval()(images)[0], (logits[0] + logits[1]) / 2)


def test_the_division_is_the_authors_mixture_of_two(command, straight):
    """The probabilities of the last epoch, from losses that are worked out anew, by scikit-learn."""
    state = Checkpoints(straight / "dividemix" / "checkpoints", 2).load_newest()
    plan = check(sections.parse(None, [*command, f"out={straight.parent}", "name=b"]), force=True)
    s = StageSession(plan, placed(plan, "dividemix", {}), plan.source()).stage
    s.net.load_state_dict(state["net"])
    s.memory["epochs"].fill_(9)
    s.start_epoch()
    losses = []
    for batch in plan.source().evaluation("train", s.learned).epoch(0):
        with torch.no_grad():
            logits = s.net["first"].eval()(batch.views[0])[0].double()
        losses.append(torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none"))
    values = torch.cat(losses).numpy()
    values = ((values - values.min()) / (values.max() - values.min()))[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(np.sort(values, axis=0))
    expected = mixture.predict_proba(values)[:, mixture.means_.argmin()]
    np.testing.assert_allclose(s.memory["clean"][0].numpy(), expected, rtol=1e-5, atol=1e-7)


def test_a_small_set_repeats_itself_under_other_draws(command, tmp_path):
    plan = check(sections.parse(None, [*command, f"out={tmp_path}", "dividemix.warmup=0"]))
    session = StageSession(plan, placed(plan, "dividemix", {}), plan.source())
    session.stage.memory["clean"][:, :20] = 1
    batches = [*session.batches.epoch(5)]
    assert [batch.number for batch in batches] == [*range(8)]
    assert {batch.epoch for batch in batches} == {5}
    assert all(len(batch.rows) == len(batch.extra.rows) == 16 for batch in batches)
    assert all((batch.rows < 20).all() and (batch.extra.rows >= 20).all() for batch in batches)
    orders = {tuple(batch.rows.tolist()) for batch in batches}
    assert len(orders) == 8  # each is a pass of its own over the 20
    again = [*session.batches.epoch(5, start=6)]
    assert torch.equal(again[0].views[1], batches[6].views[1])


def test_a_division_without_a_label_is_one_line(command, tmp_path, capsys):
    assert main([*command, f"out={tmp_path}", "dividemix.threshold=1"]) == DataError.code
    said = capsys.readouterr().err
    assert "by the second network's losses 0 of 150 labels are right in epoch 2" in said
    assert "dividemix.threshold" in said


@pytest.mark.parametrize("key", ["mixup=1", "kd=0.5", "average=0.9", "divided=true", "relabel=true"])
def test_what_it_does_by_itself_is_refused(key):
    with pytest.raises(ConfigError, match=f"task.{key.partition('=')[0]} is of no use to dividemix"):
        DivideMix.check(DivideMix.scope(sections.parse(None, [f"task.{key}"])))


@pytest.mark.parametrize("value", ["temperature=0", "alpha=0", "threshold=2", "lambda_u=-1", "rampup=0"])
def test_impossible_values_are_named(value):
    with pytest.raises(ConfigError, match=f"dividemix.{value.partition('=')[0]}"):
        stage("dividemix", f"dividemix.{value}")
