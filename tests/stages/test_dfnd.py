import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import forked, small
from support.recipe import SHAPE, batch, stage, teacher

from dist_rmd import evaluate
from dist_rmd.config import sections
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.updater import Updater
from dist_rmd.errors import ConfigError
from dist_rmd.pipeline import resolved
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.session import placed
from dist_rmd.registry import lookup
from dist_rmd.reports.summary import summary
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun
from dist_rmd.stages.dfnd import DFNDConfig


def softmax(logits, temperature=1.0):
    p = np.exp(logits / temperature)
    return p / p.sum(axis=1, keepdims=True)


def moved(*overrides):
    """In float64, with a matrix that has moved from where it starts."""
    s = stage("dfnd", *overrides)
    for net in (s.net, s.teacher):
        net.double()
    with torch.no_grad():
        s.net.adaptation.scores.copy_(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    return s


@pytest.mark.parametrize("temperature", [4, 1.5])
def test_loss_is_the_formula_with_the_teachers_class(temperature):
    s, b = moved(f"dfnd.temperature={temperature}"), batch(dtype=torch.float64)
    terms = s.losses(s.net, b)
    with torch.no_grad():
        student, target = s.net(*b.views)[0].numpy(), s.teacher(*b.views)[0].numpy()
        matrix = s.net.adaptation.matrix().numpy()
    p, q = softmax(target, temperature), softmax(student, temperature)
    distilled = temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()
    named = -np.log((softmax(student) @ matrix)[np.arange(10), target.argmax(axis=1)]).mean()
    assert terms["loss_kd"].item() == pytest.approx(distilled, abs=1e-12)
    assert terms["loss_adapted"].item() == pytest.approx(named, abs=1e-12)
    assert terms["loss"].item() == pytest.approx(distilled + named, abs=1e-12)


def test_given_labels_are_not_looked_at():
    s, b = stage("dfnd"), batch()
    s.net.eval()  # a second pass then sees the same statistics
    terms, others = (s.losses(s.net, replace(b, labels=labels)) for labels in (b.labels, (b.labels + 1) % 3))
    assert terms["loss"] == others["loss"]


def test_the_diagonal_is_the_teachers_last_accuracy_or_the_configured_one():
    for s, accuracy in ((stage("dfnd"), 0.8), (stage("dfnd", "dfnd.accuracy=0.9"), 0.9)):
        torch.testing.assert_close(s.net.adaptation.matrix().diagonal(), torch.full((3,), accuracy))


@pytest.mark.parametrize("scores", [[], [{"epoch": 1, "step": 9, "train/loss": 0.1}]])
def test_a_teacher_that_nobody_has_measured_needs_an_accuracy(scores):
    def made(*overrides):
        config = sections.parse(None, ["model.name=resnet10", "model.width=8", *overrides])
        return lookup("stages", "dfnd")(config, SHAPE, {"teacher": teacher() | {"scores": scores}})

    with pytest.raises(ConfigError, match=r"^dfnd.accuracy=null .*: give dfnd.accuracy$"):
        made()
    assert made("dfnd.accuracy=0.7").net.adaptation.accuracy == 0.7


def test_adam_moves_the_matrix_and_sgd_the_rest():
    s = stage("dfnd", "student.lr=0.5", "student.weight_decay=0.01")
    before = {name: p.detach().clone() for name, p in s.net.named_parameters()}
    updater = Updater(s.param_groups(), s.optimization, 1, torch.device("cpu"), "fp32")
    gradients = {}
    for name, p in s.net.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: gradients.update({name: p.grad.clone()}))
    updater.backward(s.losses(s.net, batch())["loss"], Clock())
    updater.step()
    for name, p in s.net.named_parameters():
        if name == "adaptation.scores":  # Adam's first step is the rate, wherever there is a gradient
            others = ~torch.eye(3, dtype=torch.bool)
            torch.testing.assert_close((p - before[name]).abs()[others], torch.full((6,), 1e-3), rtol=1e-3, atol=0)
        else:
            torch.testing.assert_close(p.detach(), before[name] - 0.5 * (gradients[name] + 0.01 * before[name]))


def test_the_artefact_has_the_matrix():
    s = moved()
    artefact = s.artefact()
    assert set(artefact) == {"encoder", "head", "adaptation"}
    assert torch.equal(artefact["adaptation"], s.net.adaptation.matrix())
    assert not artefact["adaptation"].requires_grad


def test_defaults_are_those_of_the_papers():
    c = sections.parse(None, []).section(DFNDConfig)
    assert (c.keep, c.accuracy, c.temperature) == (1, None, 4)


@pytest.mark.parametrize("value", ["keep=0", "keep=1.1", "accuracy=1.1", "accuracy=-0.1", "temperature=0"])
def test_impossible_values_are_named(value):
    with pytest.raises(ConfigError, match=f"dfnd.{value.partition('=')[0]}") as caught:
        sections.parse(None, [f"dfnd.{value}"])
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recipe(data):
    return [
        *small.RECIPE, f"data.path={data}", "data.reader=memory", "augment.flip=false", "teacher.lr=0.1",
        "stages=[teacher,dfnd]", "name=a",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def taught(recipe, tmp_path_factory):
    """A run of a teacher that has learned."""
    out = tmp_path_factory.mktemp("taught")
    arguments = ["stages=[teacher]", "data.per_class=40", "teacher.epochs=6", "teacher.eval_every=6", f"out={out}"]
    assert main([*recipe, *arguments]) == 0
    return out / "a"


@pytest.fixture
def student(recipe, taught, tmp_path):
    """The stage as it stands before its first step, and its batches."""

    def student(*overrides):
        arguments = ["stages=[dfnd]", f"inputs.teacher={taught}", f"out={tmp_path}", *overrides]
        made = resolved.check(sections.parse(None, [*recipe, *arguments]))
        s = placed(made, "dfnd", {})
        s.prepare(made.source(), made.training(type(s)))
        return made, s, s.batches(made.source(), made.training(type(s)), 0)

    return student


def test_it_learns_from_the_images_that_the_teacher_is_most_certain_of(student):
    made, s, batches = student("dfnd.keep=0.4", "student.batch_size=10")
    (images,) = next(iter(made.source().evaluation("train", made.labels).epoch(0))).views  # all of them
    with torch.no_grad():
        p = softmax(s.teacher(images)[0].double().numpy())
    entropy = -np.log(p.max(axis=1))
    certain = made.labels.indices[entropy <= np.sort(entropy)[59]]
    assert len(certain) == 60
    seen = torch.cat([batch.indices for batch in batches.epoch(0)])
    assert sorted(seen.tolist()) == certain.tolist()


def test_by_default_it_learns_from_all_images_in_the_order_of_the_other_methods(student):
    made, _, batches = student()
    others = made.source().training(made.labels, ("weak",), 32, 0)
    for ours, theirs in zip(batches.epoch(1), others.epoch(1), strict=True):
        assert torch.equal(ours.indices, theirs.indices)
        assert torch.equal(*ours.views, *theirs.views)


def test_fewer_images_than_a_batch_are_named(student):
    with pytest.raises(ConfigError, match=r"^dfnd.keep=0.2 leaves 30 of 150 images, .*student.batch_size=32$"):
        student("dfnd.keep=0.2")


def test_one_student_serves_all_noise_in_the_labels(recipe, taught, tmp_path, capsys):
    arguments = [
        *recipe, "stages=[dfnd]", f"inputs.teacher={taught}", f"out={tmp_path}", "data.per_class=40",
        "student.epochs=6", "student.eval_every=6", "dfnd.keep=0.9",
    ]  # fmt: skip
    assert main([*arguments, "noise.rate=1"]) == 0
    artefact = artefacts.load(tmp_path / "a" / "dfnd" / "artefact.pt")
    top1 = artefact["scores"][-1]["test/top1"]
    assert top1 > 40
    assert f"| DFND | digits | symmetric 1 | test/top1 | {top1:.2f} |" in summary([tmp_path / "a"])
    assert f"dfnd  test/top1 {top1:.2f}" in "\n".join(map(str, evaluate.evaluate(tmp_path / "a", None, "cpu")))

    matrix, right = artefact["adaptation"], FinishedRun(taught).scores("teacher")[-1]["test/top1"] / 100
    torch.testing.assert_close(matrix.diagonal(), torch.full((10,), right))
    even = matrix.new_full((10, 10), (1 - right) / 9).fill_diagonal_(right)
    assert 1e-5 < (matrix - even).abs().max() < 0.05  # 66 steps of Adam at 0.001

    assert main([*arguments, "noise.kind=pairflip", "noise.rate=0.4", "name=b"]) == 0
    assert "dfnd: finished before, reusing" in capsys.readouterr().out


def test_a_dry_run_has_a_teacher_that_nobody_has_measured(recipe, tmp_path, capsys):
    assert main(["--dry-run", *recipe, f"out={tmp_path / 'out'}"]) == 0
    assert re.search(r"^ *dfnd +2 x 4 ", capsys.readouterr().out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_same_on_two_ranks(recipe, taught, tmp_path):
    """The first looks at 512 images, the second at the remaining 88, for the 60 to be learned from."""
    arguments = [
        *recipe, "stages=[dfnd]", f"inputs.teacher={taught}", "precision=fp64", "data.per_class=60", "dfnd.keep=0.1",
        "student.lr=0.001", "student.batch_size=33",
    ]  # fmt: skip
    done = forked.ranks(2, "dist_rmd.train", *arguments, f"out={tmp_path / 'two'}")
    assert done.returncode == 0, done.stdout
    assert main([*arguments, f"out={tmp_path / 'one'}"]) == 0
    two, one = (artefacts.load(tmp_path / name / "a" / "dfnd" / "artefact.pt") for name in ("two", "one"))
    assert two["key"] == one["key"]
    for part in ("encoder", "head"):
        torch.testing.assert_close(two[part], one[part], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(two["adaptation"], one["adaptation"], rtol=1e-9, atol=1e-9)
