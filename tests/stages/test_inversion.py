"""Images of a teacher's memory, made, kept, and learned from by stage deepinversion."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import small
from support.forked import on_ranks
from support.recipe import batch_for, fill_memory, stage
from support.whole_runs import assert_same, records, stopped

from dist_rmd.config import sections
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.clock import Clock
from dist_rmd.pipeline.command import main
from dist_rmd.run.artefacts import load
from dist_rmd.stages.inversion import InversionConfig, jensen_shannon

RECIPE = (
    "stages=[teacher,inversion,deepinversion]", "inversion.epochs=3", "inversion.batch_size=20",
    "inversion.iterations=4", "inversion.student_steps=3", "inversion.student_lr=0.01", "deepinversion.epochs=2",
    "deepinversion.batch_size=20", "deepinversion.lr=0.01",
)  # fmt: skip


def doubled(*overrides):
    s = stage("inversion", *overrides)
    for net in (s.net, s.teacher):
        net.double()
    generator = torch.Generator().manual_seed(3)
    s.net["pixels"].values.data = torch.randn(10, 3, 8, 8, generator=generator, dtype=torch.float64)
    return s


def softmax(logits, temperature=1):
    p = np.exp(logits / temperature)
    return p / p.sum(axis=1, keepdims=True)


def js(p, q):
    m = (p + q) / 2
    return ((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)) / 2


def entering(net, images):
    """What enters each batch normalisation of the encoder, found by walking through it."""
    body = net.encoder
    x = body.conv1(images)
    yield body.bn1, x
    x = body.bn1(x).relu()
    for block in body.blocks:
        first = block.conv1(x)
        yield block.bn1, first
        second = block.conv2(block.bn1(first).relu())
        yield block.bn2, second
        if len(list(block.shortcut)) if isinstance(block.shortcut, torch.nn.Sequential) else 0:
            yield block.shortcut[1], block.shortcut[0](x)
        x = (block.bn2(second) + block.shortcut(x)).relu()


@pytest.mark.parametrize("compete", [10, 0])
def test_loss_is_the_authors_formula(compete):
    s = doubled(f"inversion.compete={compete}", "inversion.jitter=0", "inversion.tv=0.01", "inversion.l2=0.003")
    b = replace(batch_for(s, dtype=torch.float64), number=7)
    terms = s.losses(s.net, b)
    images = s.net["pixels"].values.detach()
    with torch.no_grad():
        teacher = s.teacher(images)[0].numpy()
        student = s.net["student"].eval()(images)[0].numpy()
        feature = 0.0
        for layer, x in entering(s.teacher, images):
            values = x.numpy()
            feature += np.sqrt(((values.mean((0, 2, 3)) - layer.running_mean.numpy()) ** 2).sum())
            feature += np.sqrt(((values.var((0, 2, 3)) - layer.running_var.numpy()) ** 2).sum())
    wanted = (2 * 10 + np.arange(10)) % 3
    named = -np.log(softmax(teacher)[np.arange(10), wanted]).mean()
    x = images.numpy()
    differences = (
        x[:, :, :, :-1] - x[:, :, :, 1:], x[:, :, :-1] - x[:, :, 1:],
        x[:, :, 1:, :-1] - x[:, :, :-1, 1:], x[:, :, :-1, :-1] - x[:, :, 1:, 1:],
    )  # fmt: skip
    variation = sum(np.sqrt((d**2).sum()) for d in differences)
    expected = named + 10 * feature + 0.01 * variation + 0.003 * np.sqrt((x**2).sum())
    if compete:
        expected += compete * (1 - js(softmax(teacher, 3), softmax(student, 3)).mean())
    assert terms["loss"].item() == pytest.approx(expected, rel=1e-9)
    assert ("loss_compete" in terms) is bool(compete)
    assert terms["named"].tolist() == [(teacher.argmax(1) == wanted).sum(), 10]


def test_divergence_is_symmetric_and_finite_at_any_logits():
    one, other = (torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    torch.testing.assert_close(jensen_shannon(one, other, 3), jensen_shannon(other, one, 3))
    np.testing.assert_allclose(
        jensen_shannon(one, other, 3).numpy(), js(softmax(one.numpy(), 3), softmax(other.numpy(), 3)), rtol=1e-9
    )
    far = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    found = jensen_shannon(far, far.detach().flip(0), 1)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), torch.full((2,), np.log(2), dtype=torch.float32))
    assert far.grad.isfinite().all()


@pytest.mark.parametrize("name", ["inversion", "deepinversion"])
def test_its_student_begins_as_the_model_says(name):
    first, second = (stage(name, f"model.init={init}") for init in ("fan_out", "torch"))
    body, other = (s.eval_nets()[""].encoder.conv1.weight for s in (first, second))
    assert not torch.equal(body, other)


def test_jitter_rolls_the_batch_and_is_another_one_in_every_step():
    s = doubled("inversion.feature=0", "inversion.tv=0", "inversion.compete=0")
    b = batch_for(s, dtype=torch.float64)
    values = {round(s.losses(s.net, replace(b, number=number))["loss"].item(), 9) for number in range(7, 17)}
    with torch.no_grad():
        wanted = s.wanted(b.rows, b.epoch)
        rolled = [torch.roll(s.net["pixels"].values, (i, j), (2, 3)) for i in range(-2, 3) for j in range(-2, 3)]
        possible = {round(torch.nn.functional.cross_entropy(s.teacher(x)[0], wanted).item(), 9) for x in rolled}
    assert len(values) > 3
    assert values <= possible


def test_the_teacher_stays_as_it_is_to_the_last_statistic():
    s = stage("inversion")
    before = {key: tensor.clone() for key, tensor in s.teacher.state_dict().items()}
    b = batch_for(s)
    expected = s.teacher(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    s.losses(s.net, replace(b, number=0))["loss"].backward()
    found = s.teacher(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert all(map(torch.equal, found, expected))
    assert all(torch.equal(tensor, before[key]) for key, tensor in s.teacher.state_dict().items())
    assert all(p.grad is None for p in s.teacher.parameters())
    assert not s.teacher.training


def test_images_begin_as_their_batchs_noise():
    s = stage("inversion")
    b = replace(batch_for(s), number=0)
    s.losses(s.net, b)
    torch.testing.assert_close(s.net["pixels"].values.detach(), b.views[0].view(10, 3, 8, 8))


def test_a_batch_is_kept_after_its_last_step_and_the_student_learns_of_what_there_is():
    s = stage("inversion", "inversion.iterations=4", "inversion.student_steps=3")
    fill_memory(s)
    before = s.memory["pool"].clone()
    for step in (1, 3, 10):
        s.after_step(Clock(step=step))
        assert torch.equal(s.memory["pool"], before)
    s.net["pixels"].values.data = torch.randn(10, 3, 8, 8)
    s.after_step(Clock(step=11))  # the fourth step of the second epoch
    assert torch.equal(s.memory["pool"][:10], before[:10])
    assert torch.equal(s.memory["pool"][20:], before[20:])
    kept = s.net["pixels"].normalised(s.memory["pool"][10:20])
    inside = (s.net["pixels"].values.detach() * s.net["pixels"].std + s.net["pixels"].mean).clamp(0, 1)
    found = kept * s.net["pixels"].std + s.net["pixels"].mean
    assert (found - inside).abs().max() <= 0.5 / 255 + 1e-6
    b = replace(batch_for(s), number=4, epoch=0)
    assert s.trained(b) is s.net["student"]
    s.memory["pool"][10:] = 0  # of later epochs
    told = s.losses(s.net, b)["loss"].item()
    s.memory["pool"][10:] = 99
    assert s.losses(s.net, b)["loss"].item() == told


def test_defaults_are_those_of_the_authors_code_and_the_papers():
    c = sections.parse(None, []).section(InversionConfig)
    assert (c.batch_size, c.iterations, c.lr, c.schedule) == (256, 2000, 0.05, "constant")
    assert (c.feature, c.tv, c.l2, c.compete, c.temperature, c.jitter) == (10, 2.5e-5, 0, 10, 3, 2)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [*small.RECIPE, *RECIPE, f"data.path={data}", "data.reader=memory", "name=a"]


@pytest.fixture(scope="module")
def straight(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    assert main([*command, f"out={out}"]) == 0
    return out / "a"


def test_stopped_twice_in_both_stages_they_end_with_the_same_bits(command, straight, tmp_path):
    """Within a batch of images, between images and student, where Adam has just begun anew."""
    arguments = [*command, f"out={tmp_path}"]
    assert [stopped(arguments, "inversion", step) for step in (2, 4, 7, 8)] == [75] * 4
    assert stopped(arguments, "deepinversion", 4) == 75
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight, "inversion", pictures="generated/images")
    assert_same(tmp_path / "a", straight, "deepinversion")


def test_adam_begins_anew_with_every_batch_of_images(straight):
    state = Checkpoints(straight / "inversion" / "checkpoints", 2).load_newest()
    (moments,) = state["updater"]["adam"]["state"].values()
    assert moments["step"].item() == 4  # of 12
    assert len(records(straight, "deepinversion")) > 0


def test_what_is_made_is_what_is_learned(straight):
    made = load(straight / "inversion" / "artefact.pt")
    assert made["images"].shape == (60, 8, 8, 3)
    assert made["labels"].tolist() == [place % 10 for place in range(60)]
    assert made["images"].float().std() > 10
    assert made["generated"].shape == (60, 3, 8, 8)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_ranks_makes_the_same_images(command, straight, tmp_path, ranks):
    """20 images on 3 ranks are 7 + 7 + 6."""
    arguments = [*command, "stages=[inversion]", f"inputs.teacher={straight}", "precision=fp64"]
    assert main([*arguments, f"out={tmp_path / 'one'}"]) == 0
    on_ranks(ranks, "seam", *arguments, f"out={tmp_path / 'many'}")
    ours, theirs = (load(tmp_path / out / "a" / "inversion" / "artefact.pt") for out in ("many", "one"))
    assert ours["key"] == theirs["key"]
    assert torch.equal(ours["images"], theirs["images"])
    torch.testing.assert_close(ours["head"], theirs["head"], rtol=1e-6, atol=1e-8)
