import numpy as np
import pytest
import torch
from stages.recipe import batch, stage

from dist_rmd import sections
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.updater import Updater
from dist_rmd.errors import ConfigError


def trained(name, *overrides, steps=4):
    s = stage(name, "task.lr=0.1", *overrides)
    updater, clock = Updater(s.param_groups(), s.optimization, 2, torch.device("cpu"), "fp32"), Clock()
    for step in range(steps):
        updater(s.losses(s.net, batch(seed=step))["loss"], clock)
        clock.tick()
    return s


def test_k_zero_is_the_baseline_bit_for_bit():
    baseline, rgrl = trained("classifier"), trained("rgrl", "relation.k=0")
    for a, b in zip(baseline.net.state_dict().values(), rgrl.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    other = trained("rgrl", "relation.k=1")
    assert not torch.equal(other.net.head.weight, baseline.net.head.weight)


@pytest.mark.parametrize("method", ["auto", "gather", "gram"])
def test_loss_is_the_papers_equation_11(method):
    s, b = stage("rgrl", "relation.k=0.7", f"relation.method={method}"), batch()
    assert s.relation.method == method
    s.net.double()
    s.teacher.double()
    view = b.views[0].double()
    terms = s.losses(s.net, type(b)((view,), b.labels, b.indices, b.sizes))
    logits, features = (out.detach().numpy() for out in s.net(view))
    teacher = s.teacher(view).numpy()
    rows = np.corrcoef(teacher, features)
    edge = np.linalg.norm(rows[:10, :10] - rows[10:, 10:])
    node = np.linalg.norm(rows[:10, 10:] - np.eye(10))
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    task = -log_p[np.arange(10), b.labels].mean()
    assert terms["loss"].item() == pytest.approx(task + 0.7 * (0.8 * node + 0.35 * edge), abs=1e-9)
    assert terms["loss_task"].item() == pytest.approx(task, abs=1e-9)
    assert terms["loss_node"].item() == pytest.approx(node, abs=1e-9)
    assert terms["loss_edge"].item() == pytest.approx(edge, abs=1e-9)


def test_the_teacher_never_moves():
    s = stage("rgrl")
    before = {name: tensor.clone() for name, tensor in s.teacher.state_dict().items()}
    s.net.train()
    s.losses(s.net, batch())["loss"].backward()
    assert not s.teacher.training
    assert all(p.grad is None for p in s.teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in s.teacher.state_dict().items())


def test_a_random_teacher_is_neither_simsiams_nor_the_student_and_needs_no_stage():
    s, ordinary = stage("rgrl", "relation.teacher=random"), stage("rgrl")
    teacher = s.teacher.state_dict()
    assert not torch.equal(teacher["conv1.weight"], ordinary.teacher.state_dict()["conv1.weight"])
    assert not torch.equal(teacher["conv1.weight"], s.net.encoder.state_dict()["conv1.weight"])
    assert torch.equal(s.net.encoder.state_dict()["conv1.weight"], ordinary.net.encoder.state_dict()["conv1.weight"])
    assert not s.teacher.training
    needs = [type(s).needs(sections.parse(None, [f"relation.teacher={kind}"])) for kind in ("random", "simsiam")]
    assert needs == [(), ("simsiam",)]


def test_the_teacher_is_the_simsiam_encoder_and_the_student_is_not():
    s = stage("rgrl")
    torch.manual_seed(99)
    assert torch.equal(s.teacher.conv1.weight, stage("rgrl", seed=5).teacher.conv1.weight)
    assert not torch.equal(s.teacher.conv1.weight, s.net.encoder.conv1.weight)


def test_an_unknown_relation_method_is_a_configuration_mistake():
    with pytest.raises(ConfigError, match=r"relation\.method"):
        stage("rgrl", "relation.method=gramm")
