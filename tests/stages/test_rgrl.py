from dataclasses import replace

import numpy as np
import pytest
import torch
from support import small
from support.recipe import batch, stage
from support.whole_runs import assert_same, stopped

from dist_rmd import load_run
from dist_rmd.config import sections
from dist_rmd.data.augment.views import Views
from dist_rmd.distill.dist import dist_loss
from dist_rmd.distill.relation import RelationLoss
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.updater import Updater
from dist_rmd.errors import ConfigError
from dist_rmd.models.encoder import encoder
from dist_rmd.pipeline.command import main
from dist_rmd.run.artefacts import load
from dist_rmd.stages.rgrl import RelationConfig


class Seen(torch.nn.Module):
    """A network that keeps what it was shown."""

    def __init__(self, net):
        super().__init__()
        self.net, self.images = net, []

    def forward(self, images):
        self.images.append(images)
        return self.net(images)


def trained(name, *overrides, steps=4):
    s = stage(name, "task.lr=0.1", *overrides)
    updater, clock = Updater(s.param_groups(), s.optimization, 2, torch.device("cpu"), "fp32"), Clock()
    for step in range(steps):
        b = batch(views=2, seed=step)
        updater.backward(s.losses(s.net, replace(b, views=b.views[: len(s.views)]))["loss"], clock)
        updater.step()
        clock.tick()
    return s


@pytest.mark.parametrize("teacher_view", ["same", "other", "plain"])
def test_k_zero_is_the_baseline_bit_for_bit(teacher_view):
    baseline = trained("classifier")
    rgrl = trained("rgrl", "relation.k=0", f"relation.teacher_view={teacher_view}")
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
    terms = s.losses(s.net, replace(b, views=(view,)))
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


@pytest.mark.parametrize("norm", ["fro", "rms"])
@pytest.mark.parametrize("node_pairs", ["all", "other_label", "self"])
def test_the_loss_is_that_of_the_options_with_the_given_labels(norm, node_pairs):
    options = {"norm": norm, "node_pairs": node_pairs}
    s, b = stage("rgrl", *(f"relation.{key}={value}" for key, value in options.items())), batch()
    terms = s.losses(s.net, b)
    assert len(b.labels.unique()) > 1
    assert len(b.labels.unique()) < len(b.labels)
    relation = RelationLoss(**options)(s.teacher(b.views[0]), s.net(b.views[0])[1], labels=b.labels)
    assert (terms["loss_node"], terms["loss_edge"]) == (relation.node, relation.edge)
    torch.testing.assert_close(terms["loss"], terms["loss_task"] + relation.loss)


def test_k_of_one_norm_is_k_of_the_other_by_the_batch_size():
    b, slopes = batch(size=16), []
    for norm, k in (("fro", 0.5), ("rms", 8)):
        s = stage("rgrl", f"relation.norm={norm}", f"relation.k={k}")
        s.losses(s.net, b)["loss"].backward()
        slopes.append(s.net.encoder.conv1.weight.grad)
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize(("teacher_view", "kinds"), [("same", 1), ("other", 2), ("plain", 2)])
def test_the_student_sees_the_baselines_view_and_the_teacher_its_own(teacher_view, kinds):
    s = stage("rgrl", f"relation.teacher_view={teacher_view}")
    images = torch.randint(256, (10, 8, 8, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    made = {
        name: Views(views, 8, (0.5,) * 3, (0.2,) * 3, seed=0, compiled=False)(images, torch.arange(10), 3, 4)
        for name, views in {"own": s.views, "weak": ("weak",), "plain": ("plain",)}.items()
    }
    b = batch()
    student = Seen(s.net)
    teacher = s.teacher = Seen(s.teacher)
    s.losses(student, replace(b, views=made["own"]))
    (shown,), (shown_teacher,) = student.images, teacher.images
    assert len(s.views) == kinds
    assert torch.equal(shown, *made["weak"])
    assert torch.equal(shown_teacher, shown) == (teacher_view == "same")
    assert torch.equal(shown_teacher, *made["plain"]) == (teacher_view == "plain")


@pytest.mark.parametrize("teacher", ["simsiam", "random"])
def test_a_student_that_starts_from_its_teacher_has_the_baselines_head(teacher):
    s = stage("rgrl", f"relation.teacher={teacher}", "relation.init_from_teacher=true")
    for mine, theirs in zip(s.net.encoder.state_dict().values(), s.teacher.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    baseline = stage("classifier").net
    assert not torch.equal(s.net.encoder.conv1.weight, baseline.encoder.conv1.weight)
    for mine, theirs in zip(s.net.head.parameters(), baseline.head.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    s.net.eval()
    assert s.losses(s.net, batch())["loss_edge"] == 0  # no relation to learn yet
    with torch.no_grad():
        s.net.encoder.conv1.weight.add_(1)
    assert not torch.equal(s.net.encoder.conv1.weight, s.teacher.conv1.weight)  # a copy


def test_a_teacher_that_is_weaker_than_its_student_is_told_once():
    s = stage("rgrl")  # its teacher's last measurement is 60 %
    assert s.warning({"train/loss": 1.0}) is None
    assert s.warning({"test/top1": 64.9, "test/predicted_classes": 3.0}) is None
    said = s.warning({"test/top1": 65.0, "test/predicted_classes": 3.0})
    assert said.startswith("the student is right in 65.0 %, but neighbours in its teacher's features in 60.0 % only: ")
    assert "simsiam.epochs" in said
    assert s.warning({"test/top1": 66.0, "test/predicted_classes": 3.0}) is None
    assert stage("rgrl", "relation.teacher=random").warning({"test/top1": 99.0}) is None


def test_defaults_are_the_papers():
    c = sections.parse(None, []).section(RelationConfig)
    assert (c.teacher, c.k, c.node, c.edge, c.norm, c.node_pairs) == ("simsiam", 1, 0.8, 0.35, "fro", "all")
    assert (c.teacher_view, c.init_from_teacher) == ("same", False)


@pytest.mark.parametrize("node_pairs", ["other_label", "self"])
def test_gram_cannot_leave_pairs_out(node_pairs):
    with pytest.raises(
        ConfigError, match=f"^relation.method=gram .*node_pairs={node_pairs} .*gather or auto"
    ) as caught:
        stage("rgrl", "relation.method=gram", f"relation.node_pairs={node_pairs}")
    assert "\n" not in str(caught.value)


def test_an_unknown_relation_method_is_a_configuration_mistake():
    with pytest.raises(ConfigError, match=r"relation\.method"):
        stage("rgrl", "relation.method=gramm")


def test_dist_takes_the_place_of_the_papers_relations():
    s, b = stage("rgrl", "relation.form=dist", "relation.k=3", "relation.inter=0.5"), batch()
    terms = s.losses(s.net, b)
    features = s.teacher(b.views[0]), s.net(b.views[0])[1]
    inter, intra = dist_loss(*features, [10])
    assert terms["loss_inter"].item() == pytest.approx(inter.item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx((terms["loss_task"] + 3 * (0.5 * inter + intra)).item(), rel=1e-5)
    assert "loss_node" not in terms


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["relation.inter=2"], "inter is for relation.form=dist, but the form is rmdnet"),
        (["relation.form=dist", "relation.edge=0.1"], "edge is for relation.form=rmdnet, but the form is dist"),
        (["relation.form=ega", "relation.intra=2"], "intra is for relation.form=dist, but the form is ega"),
    ],
)
def test_a_weight_of_the_other_form_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        stage("rgrl", *words)


def test_embedding_graph_alignment_is_the_authors():
    """Both sides through a linear layer to 256; the teacher's learns by cross entropy alone, and so does its head."""
    s, b = stage("rgrl", "relation.form=ega", "relation.k=0.7"), batch(dtype=torch.float64)
    s.net.double()
    s.teacher.double()
    (view,) = b.views
    terms = s.losses(s.net, b)
    terms["loss"].backward()
    named = {name: p.detach().numpy() for name, p in s.net.named_parameters()}
    below, teacher = (net(view).detach().numpy() for net in (s.net.student.encoder.net, s.teacher))

    def through(rows, layer):
        return rows @ named[f"{layer}.weight"].T + named[f"{layer}.bias"]

    def cross_entropy(logits):
        return -(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[np.arange(10), b.labels].mean()

    student, taught = through(below, "student.encoder.projection"), through(teacher, "projection")
    rows = np.corrcoef(taught, student)
    edge = np.linalg.norm(rows[:10, :10] - rows[10:, 10:])
    node = np.linalg.norm(rows[:10, 10:] - np.eye(10))
    task, beside = cross_entropy(through(student, "student.head")), cross_entropy(through(taught, "head"))
    expected = {"loss_task": task, "loss_teacher": beside, "loss_node": node, "loss_edge": edge}
    expected["loss"] = task + 0.7 * (0.8 * node + 0.35 * edge) + beside
    assert {name: terms[name].item() for name in expected} == pytest.approx(expected, rel=1e-9)

    said = s.net.head(s.net.projection(s.teacher(view)))
    alone = torch.autograd.grad(torch.nn.functional.cross_entropy(said, b.labels), s.net.projection.weight)
    torch.testing.assert_close(s.net.projection.weight.grad, *alone)
    assert (s.param_groups()[1]["lr"], s.param_groups()[1]["constant_lr"]) == (0.01, True)


def test_embedding_graph_alignment_starts_from_a_teacher_and_knows_every_width():
    s = stage("rgrl", "relation.form=ega", "relation.init_from_teacher=true", "task.average=0.9")
    average = s.averages["average"].encoder.net
    for net in (s.classifier.encoder.net, average):
        assert torch.equal(net.conv1.weight, s.teacher.conv1.weight)
    wide = {"encoder": encoder("resnet10", 16).state_dict(), "model": {"name": "resnet10", "width": 16}, "scores": [{}]}
    assert stage("rgrl", "relation.form=ega", simsiam=wide).net.projection.in_features == 128
    assert stage("rgrl", "relation.form=ega", "relation.teacher=random").teacher.out_features == 64


def test_embedding_graph_alignment_stopped_twice_has_the_same_bits_and_predicts(tmp_path):
    data = small.prepare(tmp_path / "data")
    command = [*small.RECIPE, "stages=[rgrl]", "relation.teacher=random", "relation.form=ega", f"data.path={data}",
               "data.reader=memory", "name=a", "checkpoint.every=2"]  # fmt: skip
    assert main([*command, f"out={tmp_path / 'straight'}"]) == 0
    arguments = [*command, f"out={tmp_path}"]
    assert [stopped(arguments, "rgrl", step) for step in (3, 6)] == [75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", tmp_path / "straight" / "a", "rgrl")
    content, run = load(tmp_path / "a" / "rgrl" / "artefact.pt"), load_run(tmp_path / "a")
    assert content["model"]["name"] == "projected/resnet10"
    assert set(content) >= {"encoder", "head"}
    images = torch.randn(4, 3, 8, 8)
    for best in (False, True):
        assert run.network("rgrl", best=best)(images)[1].shape == (4, 256)
