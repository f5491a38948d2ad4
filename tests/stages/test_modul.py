import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import small
from support.recipe import SHAPE, SMALL, batch, division, fill_memory, stage, teacher
from support.whole_runs import assert_same, stopped

from dist_rmd.config import Augment, Data, sections
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.data.loading.paired import Paired
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.distill import mixup
from dist_rmd.distill.division import CLEAN, CLOSED, OPEN
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.evaluate import evaluate
from dist_rmd.pipeline.command import main
from dist_rmd.registry import lookup
from dist_rmd.reports.summary import summary
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun

OFF = {"ce": "alpha", "kd": "kd", "category": "category", "instance": "instance", "rotation": "gamma"}
TERMS = tuple(OFF)


def modul(*overrides):
    s = stage("modul", *overrides)
    fill_memory(s)
    for part in (s.net, s.teacher):
        part.double()
    return s


def softmax_loss(logits, labels):
    """Mean of -log p_y, row by row, in numpy."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.array([-np.log(row[label]) for row, label in zip(p, labels, strict=True)])


def numpy(tensor):
    return tensor.detach().numpy()


def naive(s, b, mixes=True):
    """Every term of eq. 21 from the networks' outputs, in float64 and without the stage's code."""
    net = copy.deepcopy(s.net).train()
    view, labels = b.views[0], b.labels.numpy()

    def embedded(layer, features):
        z = numpy(features) @ numpy(layer.weight).T + numpy(layer.bias)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    with torch.no_grad():
        taught, features = s.teacher.encoder(view), net.encoder(view)
        hint = net.hint(features)
    terms = {
        "ce": softmax_loss(numpy(net.head(features)), labels).mean(),
        "kd": ((numpy(hint) - numpy(taught)) ** 2).mean(axis=1).mean(),
    }
    s_z, t_z = embedded(net.student_embedding, features), embedded(net.teacher_embedding, taught)
    similar = s_z @ t_z.T
    terms["instance"] = np.mean(
        [np.log(1 + sum(np.exp(row[j] - row[i]) for j in range(10) if j != i)) for i, row in enumerate(similar)]
    )
    pool, named = torch.cat(b.views), np.tile(labels, len(b.views))
    mix = mixup.draw(s.draws, b.epoch, b.number, len(pool), 8.0)
    weight, other = (mix.weight, mix.partner) if mixes else (1.0, torch.arange(10))
    images = weight * pool + (1 - weight) * pool[other]
    with torch.no_grad():
        pair = (
            embedded(net.teacher_embedding, s.teacher.encoder(images)),
            embedded(net.student_embedding, net.encoder(images)),
        )
    terms["category"] = 0.0
    for z in pair:
        logits = z @ numpy(s.prototypes).T / 0.3
        own, others = softmax_loss(logits, named), softmax_loss(logits, named[other.numpy()])
        terms["category"] += (weight * own + (1 - weight) * others).mean()
    opened = b.extra.views[0]
    turned = torch.cat([torch.stack([torch.rot90(image, j, (1, 2)) for j in range(4)]) for image in opened])
    with torch.no_grad():
        logits = numpy(net.rotation(net.encoder(turned)))
    terms["rotation"] = softmax_loss(logits, list(range(4)) * len(opened)).mean()
    return terms


@pytest.mark.parametrize("setting", ["modul.mixup=8", "modul.mixup=0", "modul.augmix=whole", "modul.augmix=last"])
def test_the_loss_is_the_papers(setting):
    s = modul(setting)
    also = {"modul.augmix=whole": ("augmix",), "modul.augmix=last": ("augmix_last",)}.get(setting, ())
    assert s.views == ("weak", *also)
    b = batch(len(s.views), dtype=torch.float64)
    expected = naive(s, b, mixes=setting != "modul.mixup=0")
    found = s.losses(s.net, b)
    assert set(found) == {"loss", *(f"loss_{name}" for name in TERMS), "fitted_right", "fitted_wrong"}
    for name, value in expected.items():
        assert found[f"loss_{name}"].item() == pytest.approx(value, rel=1e-9), name
    weights = {"ce": 0.1, "kd": 0.9, "category": 0.1, "instance": 0.1, "rotation": 0.01}
    assert found["loss"].item() == pytest.approx(sum(weights[name] * value for name, value in expected.items()))


def test_any_robust_loss_may_stand_in_cross_entropys_place():
    s, b = modul("loss.name=gce", "loss.options.q=0.7"), batch(dtype=torch.float64)
    p = s.net.train()(b.views[0]).logits.softmax(1).detach().numpy()[np.arange(10), b.labels.numpy()]
    expected = naive(s, b) | {"ce": ((1 - p**0.7) / 0.7).mean()}
    found = s.losses(s.net, b)
    for name, value in expected.items():  # rotations are told by cross entropy
        assert found[f"loss_{name}"].item() == pytest.approx(value, rel=1e-9), name


def test_mixed_images_may_be_learned_under_both_labels():
    s, b = modul("modul.mix_ce=true"), batch(dtype=torch.float64)
    mix, expected = mixup.draw(s.draws, b.epoch, b.number, 10, 8.0), naive(s, b)
    w, other = mix.weight, mix.partner
    net = copy.deepcopy(s.net).train()
    with torch.no_grad():
        logits = numpy(net.head(net.encoder(w * b.views[0] + (1 - w) * b.views[0][other])))
    own, others = (softmax_loss(logits, labels.numpy()) for labels in (b.labels, b.labels[other]))
    expected["ce"] = (w * own + (1 - w) * others).mean()
    found = s.losses(s.net, b)
    for name, value in expected.items():
        assert found[f"loss_{name}"].item() == pytest.approx(value, rel=1e-9), name
    with pytest.raises(ConfigError, match=r"modul.mix_ce=true is of mixed images, but modul.mixup=0"):
        stage("modul", "modul.mix_ce=true", "modul.mixup=0")


def test_augmix_gives_views_to_mix():
    with pytest.raises(ConfigError, match=r"modul.augmix=whole gives views to mix, but modul.mixup=0 mixes none"):
        stage("modul", "modul.augmix=whole", "modul.mixup=0")
    assert stage("modul", "modul.augmix=whole", "modul.beta=0").views == ("weak",)  # no term is of mixed images


def test_a_wrong_loss_is_named():
    with pytest.raises(ConfigError, match=r"loss.options of gce"):
        modul("loss.name=gce", "loss.options.q=2")


def test_weights_may_be_chosen_apart():
    s, b = modul("modul.alpha=0.3", "modul.kd=2", "modul.beta=0.5", "modul.instance=0.01"), batch(dtype=torch.float64)
    expected = naive(s, b)
    weights = {"ce": 0.3, "kd": 2, "category": 0.5, "instance": 0.01, "rotation": 0.01}
    total = s.losses(s.net, b)["loss"].item()
    assert total == pytest.approx(sum(weights[name] * value for name, value in expected.items()))


@pytest.mark.parametrize("gamma", [0, 0.01])
def test_softened_outputs_are_learned_of_labelled_mixed_and_open_images(gamma):
    weights = {"soft": 0.5, "soft_mixed": 0.4, "soft_open": 0.2}
    settings = [f"modul.{name}={weight}" for name, weight in weights.items()]
    s, b = modul(*settings, f"modul.gamma={gamma}", "modul.soft_temperature=3"), batch(dtype=torch.float64)
    paper = modul(f"modul.gamma={gamma}")
    paper.net.load_state_dict(s.net.state_dict())
    net, view, mix = copy.deepcopy(s.net).train(), b.views[0], mixup.draw(s.draws, b.epoch, b.number, 10, 8.0)
    mixed = mix.weight * view + (1 - mix.weight) * view[mix.partner]
    # Turned images are normalised together, so that also the upright ones among them have other features.
    opened = b.extra.views[0]
    shown = torch.cat([torch.rot90(image, j, (1, 2))[None] for image in opened for j in range(4)]) if gamma else opened
    expected = {}
    for name, images, asked in (("soft", view, view), ("soft_mixed", mixed, mixed), ("soft_open", opened, shown)):
        with torch.no_grad():
            teacher, student = numpy(s.teacher(images)[0]) / 3, numpy(net.head(net.encoder(asked))) / 3
        student = student[::4] if name == "soft_open" and gamma else student
        p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (teacher, student))
        expected[name] = 9 * (p * np.log(p / q)).sum(axis=1).mean()
    before, found = paper.losses(paper.net, b), s.losses(s.net, b)
    for name, value in expected.items():
        assert found[f"loss_{name}"].item() == pytest.approx(value, rel=1e-9), name
    more = sum(weights[name] * value for name, value in expected.items())
    assert found["loss"].item() == pytest.approx(before["loss"].item() + more)
    assert ("loss_rotation" in found) == bool(gamma)


def test_softened_outputs_of_mixed_images_need_mixing():
    with pytest.raises(ConfigError, match=r"modul\.soft_mixed .* modul\.mixup=0"):
        stage("modul", "modul.soft_mixed=1", "modul.mixup=0")


@pytest.mark.parametrize("term", TERMS)
def test_a_term_that_is_switched_off_is_not_there(term):
    """And no parameter is left without a gradient, for which DDP would wait."""
    s, b = modul(f"modul.{OFF[term]}=0", *(["modul.kd=1"] if term == "ce" else [])), batch(dtype=torch.float64)
    found = s.losses(s.net, b)
    found["loss"].backward()
    if term != "ce":
        assert f"loss_{term}" not in found
        assert all(parameter.grad is not None for parameter in s.net.parameters())
    assert {f"loss_{name}" for name in TERMS if name != term} < set(found)


def test_without_the_hybrid_loss_there_are_no_embeddings():
    s = modul("modul.beta=0")
    assert not [name for name, _ in s.net.named_parameters() if "embedding" in name]
    assert "loss_category" not in s.losses(s.net, batch(dtype=torch.float64))


def test_the_teacher_stays_while_its_embedding_learns():
    s, b = modul(), batch(dtype=torch.float64)
    s.losses(s.net, b)["loss"].backward()
    assert not s.teacher.training
    assert all(parameter.grad is None for parameter in s.teacher.parameters())
    assert s.net.teacher_embedding.weight.grad.abs().max() > 0


@pytest.mark.parametrize("which", ["labelled", "all"])
def test_running_statistics_are_of_the_images_asked_for(which):
    s, b = modul(f"modul.batchnorm={which}"), batch(dtype=torch.float64)
    alone = copy.deepcopy(s.net)
    alone.train()(b.views[0])
    s.net.train()
    s.losses(s.net, b)
    same = torch.equal(s.net.encoder.bn1.running_mean, alone.encoder.bn1.running_mean)
    assert same == (which == "labelled")


def test_equal_widths_need_no_projection():
    s = stage("modul", "model.width=16")
    assert not [name for name, _ in s.net.named_parameters() if name.startswith("hint")]
    assert stage("modul").net.hint.weight.shape == (128, 64)


def test_a_map_is_compared_place_by_place():
    s, b = modul("modul.hint=map", "model.width=16"), batch(dtype=torch.float64)
    net = copy.deepcopy(s.net).train()
    expected = (net.encoder.maps(b.views[0]) - s.teacher.encoder.maps(b.views[0])).square().mean().item()
    assert s.losses(s.net, b)["loss_kd"].item() == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ConfigError, match=r"modul\.hint=map: the last maps of vgg13 and of the teacher differ"):
        stage("modul", "modul.hint=map", "model.name=vgg13")


def built(sets, **artefact):
    """The stage on a division of which these are the sets."""
    config = sections.parse(None, SMALL)
    inputs = {"teacher": teacher(), "division": {**division(), **artefact, "sets": torch.as_tensor(sets)}}
    return lookup("stages", "modul")(config, SHAPE, inputs)


def test_without_open_images_there_is_no_rotation():
    s = built([CLEAN] * 30)
    assert s.net.rotation is None
    assert not s.weights["soft_open"]
    assert "loss_rotation" not in s.losses(s.net, batch())


def test_nothing_to_learn_is_a_configuration_mistake():
    with pytest.raises(ConfigError, match="all weights are 0"):
        stage("modul", "modul.alpha=0", "modul.kd=0", "modul.beta=0", "modul.gamma=0")


# On real images


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.prepare(tmp_path_factory.mktemp("data"), open_images=300)


def source(data) -> Loaders:
    """Of digits: 8 x 8 pixels as in SHAPE."""
    return Loaders(
        open_dataset(data), Data(reader="memory", compile_views=False), Augment(), 0, 1, torch.device("cpu"), cores=1
    )


def looked(data, sets, labels, predicted, *overrides):
    """The stage after its look at the first images, with these sets, targets and teacher's labels (3 classes)."""
    config = sections.parse(None, [*SMALL, "student.batch_size=4", *overrides])
    indices = torch.arange(len(sets))
    found = dict(zip(("sets", "labels", "predicted"), map(torch.tensor, (sets, labels, predicted)), strict=True))
    torch.manual_seed(3)
    inputs = {"teacher": teacher(), "division": {"indices": indices, "given": found["labels"], **found}}
    s = lookup("stages", "modul")(config, SHAPE, inputs)
    view = LabelView(indices.numpy(), np.zeros(len(sets), np.int64), None, 3)
    s.prepare(source(data), view)
    return s, s.batches(source(data), view, 0)


def expected_prototypes(s, data, rows_of):
    """Eq. 9 in numpy: unit means of unit embeddings."""
    view = LabelView(np.arange(12), np.zeros(12, np.int64), None, 3)
    (b,) = source(data).evaluation("train", view).epoch(0)
    with torch.no_grad():
        z = numpy(F.normalize(s.net.teacher_embedding(s.teacher.encoder(b.views[0]))).double())
    means = [z[rows].mean(axis=0) if rows else np.zeros(128) for rows in rows_of]
    return np.array([mean / max(np.linalg.norm(mean), 1e-12) for mean in means])


SETS = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
LABELS = [0, 0, 1, 1, 0, 1, 1, 2, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        ([], [[0, 1, 4], [2, 3, 5, 6], [7, 8]]),
        (["modul.prototypes=clean"], [[0, 1, 4], [2, 3, 5], [7, 8]]),  # no clean 2: what the teacher takes for one
    ],
)
def test_prototypes_are_mean_directions_of_the_labelled_images(data, overrides, rows):
    s, _ = looked(data, SETS, LABELS, LABELS, *overrides)
    s.start_epoch()
    np.testing.assert_allclose(s.prototypes.numpy(), expected_prototypes(s, data, rows), atol=1e-6)


def test_a_class_that_nobody_names_has_no_prototype_and_is_left_out(data):
    s, _ = looked(data, [0] * 9 + [2] * 3, [0, 0, 1, 1, 0, 1, 1, 0, 0, 2, 2, 2], [0] * 12)
    s.start_epoch()
    assert not s.prototypes[2].any()
    assert s.prototypes[:2].any(dim=1).all()
    assert torch.isfinite(s.losses(s.net, batch())["loss"])


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_prototypes_follow_the_embedding_as_fast_as_asked(data, momentum):
    s, _ = looked(data, SETS, LABELS, LABELS, f"modul.prototype_momentum={momentum}")
    s.start_epoch()
    first = s.prototypes.clone()
    with torch.no_grad():
        s.net.teacher_embedding.weight.copy_(torch.randn_like(s.net.teacher_embedding.weight))
    s.start_epoch()
    fresh = expected_prototypes(s, data, [[0, 1, 4], [2, 3, 5, 6], [7, 8]])
    blended = momentum * first.numpy() + (1 - momentum) * fresh
    expected = blended / np.linalg.norm(blended, axis=1, keepdims=True)
    np.testing.assert_allclose(s.prototypes.numpy(), expected, atol=1e-6)


def test_closed_images_may_be_named_anew_in_every_step(data):
    """By what the teacher says of the present view; clean images keep their label."""
    fixed, online = (looked(data, SETS, LABELS, LABELS, *more)[0] for more in ([], ["modul.labels=online"]))
    assert online.memory["closed"][:12].tolist() == [int(s == CLOSED) for s in SETS]
    b = replace(batch(size=9), rows=torch.arange(9), labels=torch.tensor(LABELS[:9]))
    with torch.no_grad():
        said = online.teacher(b.views[0])[0].argmax(dim=1)
    assert not torch.equal(said[6:], b.labels[6:])
    relabelled = replace(b, labels=torch.cat([b.labels[:6], said[6:]]))
    assert online.losses(online.net, b)["loss"] == fixed.losses(fixed.net, relabelled)["loss"]


def test_batches_are_of_clean_and_closed_images_with_open_ones_beside(data):
    _, loader = looked(data, SETS, LABELS, LABELS)
    assert isinstance(loader, Paired)
    assert len(loader) == 2
    for b in loader.epoch(0):
        assert all(SETS[i] != OPEN for i in b.indices.tolist())
        assert [LABELS[i] for i in b.indices.tolist()] == b.labels.tolist()
        assert sorted(b.extra.indices.tolist()) == [9, 10, 11]  # all there are, fewer than open_batch_size


def test_batches_may_be_half_clean_and_half_closed(data):
    _, loader = looked(data, SETS, LABELS, LABELS, "modul.drawn=halves")
    assert len(loader) == sum(s == CLEAN for s in SETS) // 2
    for epoch in range(2):
        for b in loader.epoch(epoch):
            assert [SETS[i] for i in b.indices.tolist()] == [CLEAN, CLEAN, CLOSED, CLOSED]
            assert b.extra is not None
    _, loader = looked(data, [CLEAN] * 9 + [OPEN] * 3, LABELS, LABELS, "modul.drawn=halves")
    assert len(loader) == 2  # there is nothing to draw the other half from


def test_a_division_that_leaves_nothing_to_learn_is_a_clear_end(data):
    with pytest.raises(DataError, match="all images into the open set"):
        looked(data, [2] * 12, LABELS, LABELS)


def test_a_division_of_other_images_is_refused(data):
    s = built([CLEAN] * 30)
    with pytest.raises(DataError, match="the division is of other images"):
        s.prepare(source(data), LabelView(np.arange(5, 35), np.zeros(30, np.int64), None, 3))


# Whole runs


@pytest.fixture(scope="module")
def recipe(data) -> list[str]:
    return [
        *small.RECIPE, "noise.rate=0", "noise.kind=openset", "noise.rho1=0.5", "noise.rho2=0.5",
        "division.evidence=exp", f"data.path={data}", "data.reader=memory", "data.per_class=20", "data.skip=80",
        "teacher.per_class=80", "augment.flip=false", "teacher.epochs=5", "teacher.lr=0.1", "student.epochs=3",
        "student.batch_size=32", "modul.open_batch_size=8", "stages=[teacher,division,modul]", "log.every=3",
        "checkpoint.every=2", "name=a",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def straight(recipe, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    assert main([*recipe, f"out={out}"]) == 0
    return out / "a"


def test_stopped_within_epochs_and_at_their_ends_it_ends_with_the_same_bits(recipe, straight, tmp_path):
    arguments = [*recipe, f"out={tmp_path}"]
    steps = artefacts.load(straight / "modul" / "artefact.pt")["scores"][0]["step"]
    for step in (2, steps, steps + 1, 3 * steps):
        assert stopped(arguments, "modul", step) == 75
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight, "modul")


def test_what_it_leaves_is_evaluated_and_reported(straight):
    artefact = artefacts.load(straight / "modul" / "artefact.pt")
    assert {"encoder", "head", "hint", "student_embedding", "teacher_embedding", "rotation"} <= artefact.keys() | {
        "hint"
    }
    run = FinishedRun(straight)
    net = run.network("modul", run.dataset(), torch.device("cpu"))
    assert torch.equal(net.head.weight, artefact["head"]["weight"])
    top1 = artefact["scores"][-1]["test/top1"]
    assert f"modul  test/top1 {top1:.2f}" in "\n".join(map(str, evaluate(straight, None, "cpu")))
    assert "| MODUL | digits | openset 0.5, 0.5 | test/top1 |" in summary([straight])
