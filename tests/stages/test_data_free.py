"""What dafl, dfad and zskt share: a generator, its pictures, and how a collapse is told."""

import pytest
import torch
from support import small
from support.forked import on_ranks
from support.recipe import batch_for, stage
from support.whole_runs import assert_same, records, stopped

from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.pipeline.command import main
from dist_rmd.run.artefacts import load
from dist_rmd.stages._data_free import diversity

STAGES = ("dafl", "dfad", "zskt")
STEPS = {"dafl": 7, "dfad": 9, "zskt": 8}
RECIPE = (
    "dafl.steps=7", "dafl.batch_size=20", "dafl.epochs=2", "dafl.latent=6", "dafl.milestones=[1]",
    "dfad.rounds=3", "dfad.student_steps=2", "dfad.batch_size=20", "dfad.epochs=2", "dfad.latent=6",
    "dfad.milestones=[1]", "zskt.rounds=2", "zskt.student_steps=3", "zskt.batch_size=20", "zskt.epochs=2",
    "zskt.latent=6",
)  # fmt: skip


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    stages = f"stages=[teacher,{','.join(STAGES)}]"
    return [*small.RECIPE, *RECIPE, stages, f"data.path={data}", "data.reader=memory", "name=a"]


@pytest.fixture(scope="module")
def straight(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    assert main([*command, f"out={out}"]) == 0
    return out / "a"


def test_stopped_twice_in_every_stage_it_ends_with_the_same_bits(command, straight, tmp_path):
    """Between the steps of two networks, within the steps that share a batch of noise, at an epoch's end."""
    arguments = [*command, f"out={tmp_path}"]
    for name, steps in {"dafl": (3, 9), "dfad": (2, 9), "zskt": (6, 11)}.items():
        assert [stopped(arguments, name, step) for step in steps] == [75, 75]
    assert main(arguments) == 0
    for name in STAGES:
        assert_same(tmp_path / "a", straight, name, pictures="generated/images")


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_ranks_is_the_same_training(command, straight, tmp_path, ranks):
    """20 images of noise on 3 ranks are 7 + 7 + 6."""
    arguments = [
        *command, "precision=fp64", "stages=[dafl,dfad,zskt]", f"inputs.teacher={straight}",
        "dafl.lr=0.001", "dafl.generator_lr=0.0001", "dfad.lr=0.001",
    ]  # fmt: skip
    assert main([*arguments, f"out={tmp_path / 'one'}"]) == 0
    on_ranks(ranks, "seam", *arguments, f"out={tmp_path / 'many'}")
    for name in STAGES:
        one, many = (
            Checkpoints(tmp_path / out / "a" / name / "checkpoints", 2).load_newest()["net"] for out in ("one", "many")
        )
        torch.testing.assert_close(many, one, rtol=1e-6, atol=1e-8)
        ours, theirs = (load(tmp_path / out / "a" / name / "artefact.pt") for out in ("many", "one"))
        assert ours["key"] == theirs["key"]
        torch.testing.assert_close(ours["generated"], theirs["generated"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", STAGES)
def test_no_label_and_no_image_of_the_dataset_changes_the_result(command, straight, tmp_path, name):
    changed = [*command, f"stages=[{name}]", f"inputs.teacher={straight}", "noise.rate=0.9", "data.per_class=3"]
    assert main([*changed, f"out={tmp_path}"]) == 0
    ours, theirs = (load(run / name / "artefact.pt") for run in (tmp_path / "a", straight))
    assert all(map(torch.equal, ours["generator"].values(), theirs["generator"].values()))
    assert all(map(torch.equal, ours["head"].values(), theirs["head"].values()))


@pytest.mark.parametrize("name", STAGES)
def test_the_teacher_stays_as_it_is_to_the_last_statistic(name):
    s, other = stage(name), stage(name, seed=5)
    assert torch.equal(s.teacher.head.weight, other.teacher.head.weight)
    assert not torch.equal(s.net["student"].head.weight, other.net["student"].head.weight)
    before = {key: tensor.clone() for key, tensor in s.teacher.state_dict().items()}
    s.net.train()
    s.losses(s.net, batch_for(s))["loss"].backward()
    assert s.frozen() == [s.teacher]
    assert not s.teacher.training
    assert all(p.grad is None for p in s.teacher.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in s.teacher.state_dict().items())


@pytest.mark.parametrize("name", STAGES)
def test_pictures_are_of_one_noise_and_leave_the_generator_as_it_is(name):
    s = stage(name)
    s.net.train()
    before = {key: tensor.clone() for key, tensor in s.net.state_dict().items()}
    pictures = s.pictures()
    assert pictures.shape == (64, 3, 8, 8)
    assert not pictures.requires_grad
    assert torch.equal(s.pictures(), pictures)
    assert s.net["generator"].training
    assert all(torch.equal(tensor, before[key]) for key, tensor in s.net.state_dict().items())
    assert torch.equal(s.artefact()["generated"], pictures)


def test_curves_show_what_is_made(straight):
    for name in STAGES:
        means = [record for record in records(straight, name) if "train/generated_std" in record]
        assert means
        assert all(1 <= record["train/generated_classes"] <= 10 for record in means)
        assert records(straight, name)[-1]["test/top1"] >= 0


def test_diversity_is_a_standard_deviation_and_a_number_of_classes():
    s = stage("dfad")
    b = batch_for(s, size=4)
    images = torch.zeros(4, 3, 8, 8)
    images[:2] = 2.0  # every pixel is 2, 2, 0, 0
    logits = torch.eye(3)[torch.tensor([0, 0, 1, 1])]
    found = diversity(images, logits, b)
    assert found["generated_std"].item() == pytest.approx(1)
    assert found["generated_classes"].item() == pytest.approx(2)
    assert diversity(images[:1].expand(4, -1, -1, -1), logits[:1].expand(4, -1), b)["generated_classes"] == 1


@pytest.mark.parametrize(
    ("std", "classes", "said"),
    [
        (0.05, 9.0, "all alike (a pixel differs by 0.050"),
        (0.8, 1.2, "nearly all of its images for one class (1.2 classes"),
        (0.8, 2.0, None),
    ],
)
def test_a_collapse_is_said_once_in_one_line(std, classes, said):
    s = stage("dfad")
    told = s.warning({"train/generated_std": std, "train/generated_classes": classes})
    if said is None:
        assert told is None
        return
    assert said in told
    assert told.startswith("the generator has collapsed: ")
    assert told.endswith("a smaller dfad.generator_lr may cure it")
    assert "\n" not in told
    assert s.warning({"train/generated_std": std, "train/generated_classes": classes}) is None
    assert s.warning({"train/loss": 1.0}) is None
