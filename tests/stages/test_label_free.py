"""What holds for every stage that learns without labels."""

from typing import get_args

import pytest
import torch
from support import small
from support.forked import on_ranks
from support.recipe import batch_for, stage
from support.whole_runs import assert_same, records, stopped

from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.pipeline.command import main
from dist_rmd.registry import available, lookup
from dist_rmd.run.artefacts import load
from dist_rmd.stages._label_free import LabelFree, LabelFreeStage

METHODS = get_args(LabelFree)
OTHERS = METHODS[1:]
"""than SimSiam, whose whole runs other files test"""


def test_each_of_them_may_be_a_teacher():
    kinds = {name: lookup("stages", name) for name in available("stages")}
    assert {name for name, kind in kinds.items() if issubclass(kind, LabelFreeStage)} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_collapse_is_seen(name):
    s = stage(name)
    healthy = s.losses(s.net, batch_for(s, size=64))["feature_std"].item()
    assert healthy == pytest.approx(s.healthy_std, rel=0.5)
    assert s.warning({"train/feature_std": healthy}) is None
    assert s.warning({"test/knn_top1": 10.0}) is None
    assert "collapsing" in s.warning({"train/feature_std": s.healthy_std / 100})


@pytest.mark.parametrize("name", METHODS)
def test_the_artefact_holds_the_encoder_and_its_heads(name):
    s = stage(name)
    artefact, net = s.artefact(), s.eval_nets()[""]
    assert {"encoder", "projector"} <= artefact.keys()
    assert artefact.keys() == dict(net.named_children()).keys()
    assert torch.equal(artefact["encoder"]["conv1.weight"], net.encoder.conv1.weight)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """4 steps an epoch, and relations of the last of the teachers."""
    data = small.prepare(tmp_path_factory.mktemp("data"))
    stages = f"stages=[{','.join(OTHERS)},rgrl]"
    return [
        *small.RECIPE, stages, f"data.path={data}", "data.reader=memory", "name=a", f"relation.teacher={OTHERS[-1]}",
        *(f"{name}.eval_every=1" for name in OTHERS),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def straight(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    assert main([*command, f"out={out}"]) == 0
    return out / "a"


def test_neighbours_measure_them_during_training(straight):
    for name in OTHERS:
        assert [record["epoch"] for record in records(straight, name) if "test/knn_top1" in record] == [1, 2]


def test_their_encoder_is_the_teacher_of_relations(straight):
    assert load(straight / "rgrl" / "artefact.pt")["scores"]
    own, random = (stage("rgrl", f"relation.teacher={name}") for name in (OTHERS[-1], "random"))
    assert not torch.equal(own.teacher.conv1.weight, random.teacher.conv1.weight)


def test_stopped_twice_in_every_stage(command, straight, tmp_path):
    arguments = [*command, f"out={tmp_path}"]
    for number, name in enumerate(OTHERS):
        assert [stopped(arguments, name, step) for step in (1 + number % 3, 6)] == [75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight, *OTHERS)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_ranks_is_the_same_training(command, tmp_path, ranks):
    """150 images in batches of 50: uneven shards."""
    small_steps = [word for name in OTHERS for word in (f"{name}.batch_size=50", f"{name}.lr=0.001")]
    arguments = [*command, f"stages=[{','.join(OTHERS)}]", "precision=fp64", *small_steps]
    assert main([*arguments, f"out={tmp_path / 'one'}"]) == 0
    on_ranks(ranks, "seam", *arguments, f"out={tmp_path / 'ranks'}")
    for name in OTHERS:
        states = [Checkpoints(tmp_path / out / "a" / name / "checkpoints", 2).load_newest() for out in ("one", "ranks")]
        for part in ("net", "averages", "memory"):
            torch.testing.assert_close(states[1][part], states[0][part], rtol=1e-8, atol=1e-10)
