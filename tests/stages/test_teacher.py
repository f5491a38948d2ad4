import numpy as np
import pytest
import torch
from support import small
from support.recipe import SHAPE, batch, stage

from dist_rmd import evaluate
from dist_rmd.config import sections
from dist_rmd.distill.division import evidential_loss
from dist_rmd.errors import ConfigError
from dist_rmd.models.vgg import VGG
from dist_rmd.pipeline.command import main
from dist_rmd.reports.summary import summary
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun
from dist_rmd.stages.teacher import TeacherConfig


def test_loss_is_cross_entropy_whatever_the_losses_of_the_students():
    t, b = stage("teacher", "loss.name=gce"), batch(dtype=torch.float64)
    t.net.double()
    logits = t.net(*b.views)[0].detach().numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(p[np.arange(10), b.labels]).mean()
    assert t.losses(t.net, b)["loss"].item() == pytest.approx(expected, abs=1e-12)


def test_an_evidential_teacher_learns_the_evidential_loss():
    t, b = stage("teacher", "teacher.loss=edl"), batch(dtype=torch.float64)  # of epoch 2
    t.net.double()
    logits = t.net(*b.views)[0].detach()
    assert t.losses(t.net, b)["loss"].item() == pytest.approx(evidential_loss(logits, b.labels, 0.2).mean().item())


def test_the_encoder_is_the_teachers_own():
    t = stage("teacher", "model.name=resnet18", "model.width=16", "teacher.model=vgg13", "teacher.width=8")
    assert isinstance(t.net.encoder, VGG)
    assert t.net.encoder.out_features == 64
    assert t.net.head.weight.shape == (SHAPE.classes, 64)
    assert set(t.artefact()) == {"encoder", "head"}


def test_defaults_are_the_authors():
    c = sections.parse(None, []).section(TeacherConfig)
    assert (c.model, c.width) == ("resnet34", 64)
    assert (c.epochs, c.batch_size, c.lr, c.momentum, c.weight_decay) == (200, 256, 0.1, 0.9, 5e-4)
    assert (c.schedule, c.milestones, c.gamma) == ("step", (80, 120), 0.1)


def test_an_unknown_encoder_is_a_configuration_mistake():
    with pytest.raises(ConfigError, match=r"teacher\.model"):
        sections.parse(None, ["teacher.model=vgg19"])


def test_a_collapse_names_the_teachers_settings():
    said = stage("teacher").warning({"test/predicted_classes": 1})
    assert said.endswith("teacher.grad_clip=5 or a smaller teacher.lr may cure it")
    assert stage("teacher").warning({"test/predicted_classes": 2}) is None


def test_one_teacher_serves_all_noise_and_students_and_is_right_where_every_label_is_wrong(tmp_path, capsys):
    recipe = [
        *small.RECIPE, f"data.path={small.prepare(tmp_path)}", f"out={tmp_path}", "data.reader=memory",
        "data.per_class=40", "augment.flip=false", "stages=[teacher]", "teacher.epochs=8", "teacher.lr=0.1",
        "teacher.model=vgg13", "teacher.eval_every=8",
    ]  # fmt: skip
    # A teacher alone would be given no noise: a classifier beside it sees that every label is wrong.
    assert main([*recipe, "name=a", "noise.rate=1", "stages=[teacher,classifier]", "task.epochs=1"]) == 0
    assert "reusing" not in capsys.readouterr().out
    run = FinishedRun(tmp_path / "a")
    assert run.labels.noise_rate == 1
    artefact = artefacts.load(tmp_path / "a" / "teacher" / "artefact.pt")
    assert artefact["model"] == {"name": "vgg13", "width": 8}
    assert run.config.model.name == "resnet10"
    top1 = run.scores("teacher")[-1]["test/top1"]
    assert top1 > 40  # a classifier of the given labels, none of which is right, would be below chance

    assert main([*recipe, "name=b", "noise.kind=pairflip", "noise.rate=0.4", "model.width=16"]) == 0
    assert "teacher: finished before, reusing" in capsys.readouterr().out
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert f"teacher  test/top1 {top1:.2f}" in "\n".join(map(str, evaluate.evaluate(folder, None, "cpu")))
    assert f"| teacher | digits | symmetric 1 | test/top1 | {top1:.2f} |" in summary([tmp_path / "a"])
    dataset = run.dataset()
    for best in (False, True):
        net = run.network("teacher", dataset, torch.device("cpu"), best)
        assert isinstance(net.encoder, VGG)
        assert torch.equal(net.head.weight, artefact["head"]["weight"])  # the only epoch measured is the last
