import numpy as np
import pytest
import torch
from support import small
from support.recipe import batch, stage, teacher

from dist_rmd import evaluate
from dist_rmd.config import sections
from dist_rmd.pipeline.command import main
from dist_rmd.reports.summary import summary
from dist_rmd.run import artefacts
from dist_rmd.stages._student import StudentConfig
from dist_rmd.stages.vkd import VKDConfig


def doubled(*overrides):
    s = stage("vkd", *overrides)
    for net in (s.net, s.teacher):
        net.double()
    return s


def softmax(logits, temperature=1):
    p = np.exp(logits / temperature)
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.1, 4), (0.7, 1.5), (0, 4), (1, 4)])
def test_loss_is_the_formula_over_the_given_labels(alpha, temperature):
    s, b = doubled(f"vkd.alpha={alpha}", f"vkd.temperature={temperature}", "loss.name=gce"), batch(dtype=torch.float64)
    terms = s.losses(s.net, b)
    with torch.no_grad():
        student, target = s.net(*b.views)[0].numpy(), s.teacher(*b.views)[0].numpy()
    task = -np.log(softmax(student)[np.arange(10), b.labels]).mean()
    p, q = softmax(target, temperature), softmax(student, temperature)
    distilled = temperature**2 * (p * np.log(p / q)).sum(axis=1).mean()
    assert terms["loss"].item() == pytest.approx(alpha * task + (1 - alpha) * distilled, abs=1e-12)
    assert terms["loss_task"].item() == pytest.approx(task, abs=1e-12)
    assert terms["loss_kd"].item() == pytest.approx(distilled, abs=1e-12)


@pytest.mark.parametrize("width", [8, 16])  # 16 is the teacher's
@pytest.mark.parametrize("alpha", [0.1, 1])
def test_features_are_compared_by_their_mean_square_distance(alpha, width):
    s = doubled("vkd.transfer=features", f"vkd.alpha={alpha}", f"model.width={width}")
    b = batch(dtype=torch.float64)
    terms = s.losses(s.net, b)
    with torch.no_grad():
        logits, features, taught = s.net.head(s.net.encoder(*b.views)), s.net.encoder(*b.views), s.teacher(*b.views)[1]
    features, taught = features.numpy(), taught.numpy()
    if width == 8:
        features = features @ s.net.hint.weight.detach().numpy().T + s.net.hint.bias.detach().numpy()
    task = -np.log(softmax(logits.numpy())[np.arange(10), b.labels]).mean()
    distance = np.mean([np.mean((f - t) ** 2) for f, t in zip(features, taught, strict=True)])
    assert terms["loss"].item() == pytest.approx(alpha * task + (1 - alpha) * distance, abs=1e-12)
    assert terms["loss_kd"].item() == pytest.approx(distance, abs=1e-12)
    terms["loss"].backward()
    assert all(parameter.grad is not None for parameter in s.net.parameters())
    assert set(s.artefact()) == {"encoder", "head"}


def test_the_teacher_is_that_of_the_artefact_in_evaluation_mode_and_never_moves():
    s, other = stage("vkd"), stage("vkd", seed=5)
    assert torch.equal(s.teacher.head.weight, other.teacher.head.weight)
    assert not torch.equal(s.net.head.weight, other.net.head.weight)
    before = {name: tensor.clone() for name, tensor in s.teacher.state_dict().items()}
    s.net.train()
    s.losses(s.net, batch())["loss"].backward()
    assert s.frozen() == [s.teacher]
    assert not s.teacher.training
    assert all(p.grad is None for p in s.teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in s.teacher.state_dict().items())


def test_the_student_begins_as_the_baseline_does():
    baseline = stage("classifier").net.state_dict()
    for transfer in ("logits", "features"):
        ours = stage("vkd", f"vkd.transfer={transfer}").net.state_dict()
        assert all(torch.equal(ours[name], tensor) for name, tensor in baseline.items())


def test_teacher_and_student_may_be_of_any_widths():
    s = stage("vkd", "model.name=vgg13", "model.width=8")
    assert s.teacher.encoder.out_features == len(teacher()["head"]["weight"][0])
    assert s.net.encoder.out_features != s.teacher.encoder.out_features
    assert set(s.artefact()) == {"encoder", "head"}


def test_defaults_are_those_of_the_papers():
    config = sections.parse(None, [])
    assert (config.section(VKDConfig).alpha, config.section(VKDConfig).temperature) == (0.1, 4)
    s = config.section(StudentConfig)
    assert (s.epochs, s.batch_size, s.lr, s.momentum, s.weight_decay) == (200, 64, 0.1, 0.9, 1e-4)
    assert (s.schedule, s.milestones, s.gamma) == ("step", (80, 160), 0.1)


def test_a_collapse_names_the_students_settings():
    said = stage("vkd").warning({"test/predicted_classes": 1})
    assert said.endswith("student.grad_clip=5 or a smaller student.lr may cure it")


def test_it_learns_from_a_teacher_what_its_labels_do_not_say(tmp_path):
    """All labels are wrong: with nothing else to learn from, a student would be below chance."""
    recipe = [
        *small.RECIPE, f"data.path={small.prepare(tmp_path)}", f"out={tmp_path}", "data.reader=memory",
        "data.per_class=40", "augment.flip=false", "noise.rate=1", "teacher.epochs=6", "teacher.lr=0.1",
        "teacher.eval_every=6", "student.epochs=6", "student.eval_every=6", "stages=[teacher,vkd]",
    ]  # fmt: skip
    assert main([*recipe, "name=a"]) == 0
    top1 = artefacts.load(tmp_path / "a" / "vkd" / "artefact.pt")["scores"][-1]["test/top1"]
    assert top1 > 40
    assert f"| KD (T=4) | digits | symmetric 1 | test/top1 | {top1:.2f} |" in summary([tmp_path / "a"])
    assert f"vkd  test/top1 {top1:.2f}" in "\n".join(map(str, evaluate.evaluate(tmp_path / "a", None, "cpu")))
