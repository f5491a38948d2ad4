"""What a stage may ask of the engine, beyond a network and a loss, with the small stages of support/seam."""

import pytest
import torch
from support import seam, small
from support.forked import on_ranks
from support.whole_runs import assert_same, records, stopped

from dist_rmd.config import sections
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.errors import ConfigError
from dist_rmd.evaluate import evaluate
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.resolved import check
from dist_rmd.pipeline.session import StageSession, placed
from dist_rmd.run import artefacts

STAGES = seam.STAGES
STEPS = {"remembering": 4, "averaging": 4, "adversaries": 9, "pair": 4}
"""of one epoch"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def command(data):
    return [
        *small.RECIPE, f"stages=[{','.join(STAGES)}]", f"data.path={data}", "data.reader=memory", "name=a",
        "log.every=3", "checkpoint.every=2",
    ]  # fmt: skip


def run(arguments, out):
    with seam.known():
        assert main([*arguments, f"out={out}"]) == 0
    return out / "a"


@pytest.fixture(scope="module")
def straight(command, tmp_path_factory):
    return run(command, tmp_path_factory.mktemp("straight"))


def newest(folder, stage):
    state = Checkpoints(folder / stage / "checkpoints", 2).load_newest()
    assert state
    return state


def test_stopped_twice_in_every_stage(command, straight, tmp_path):
    """Within an epoch, between the steps of two networks, after the last step before an evaluation."""
    arguments = [*command, f"out={tmp_path}"]
    stops = {"remembering": (2, 5), "averaging": (3, 4), "adversaries": (5, 15), "pair": (1, 7)}
    with seam.known():
        for stage, steps in stops.items():
            assert [stopped(arguments, stage, step) for step in steps] == [75, 75]
        assert main(arguments) == 0
    for stage in STAGES:
        assert_same(tmp_path / "a", straight, stage, pictures="" if stage == "adversaries" else "train/views")


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_ranks_is_the_same_training(command, tmp_path, ranks):
    """150 images in batches of 50: uneven shards."""
    arguments = [*command, "precision=fp64", "task.batch_size=50", "task.lr=0.001"]
    alone = run(arguments, tmp_path / "alone")
    on_ranks(ranks, "seam", *arguments, f"out={tmp_path / 'ranks'}")
    together = tmp_path / "ranks" / "a"
    for stage in STAGES:
        ours, theirs = newest(together, stage), newest(alone, stage)
        for part in ("net", "averages", "memory"):
            torch.testing.assert_close(ours[part], theirs[part], rtol=1e-8, atol=1e-10)
        for mine, other in zip(records(together, stage), records(alone, stage), strict=True):
            for tag in mine.keys() - {"stage"}:
                assert tag.startswith("perf/") or mine[tag] == pytest.approx(other[tag], rel=1e-8, abs=1e-10), tag


def test_an_image_has_its_own_place_in_the_memory(straight):
    """Every image of 150 is seen once in an epoch, save the last ones that fill no batch of 32."""
    seen = newest(straight, "remembering")["memory"]["seen"]
    assert len(seen) == 150
    assert seen.sum() == 2 * 4 * 32
    assert seen.max() == 2


def test_the_average_is_evaluated_and_the_student_beside_it(straight):
    state = newest(straight, "averaging")
    artefact = artefacts.load(straight / "averaging" / "artefact.pt")
    student = artefact["others"]["student"]["head"]["weight"]
    assert torch.equal(artefact["head"]["weight"], state["averages"]["teacher"]["head.weight"])
    assert torch.equal(student, state["net"]["head.weight"])
    assert not torch.equal(artefact["head"]["weight"], student)
    measured = records(straight, "averaging")[-1].keys()
    assert {"test/top1", "test/top1_student", "test/predicted_classes_student"} <= measured


@pytest.mark.parametrize("best", [False, True])
def test_a_finished_run_is_evaluated_as_its_training_was(straight, best):
    with seam.known():
        said = "\n".join(map(str, evaluate(straight, None, "cpu", best)))
    for stage, names in (("averaging", ("", "_student")), ("adversaries", ("",)), ("pair", ("", "_second"))):
        measured = [record for record in records(straight, stage) if "test/top1" in record]
        chosen = max(measured, key=lambda record: record["test/top1"]) if best else measured[-1]
        for name in names:
            which = f"({'best' if best else 'last'} epoch, {chosen['epoch']})"
            assert f"{stage}  test/top1{name} {chosen[f'test/top1{name}']:.2f}  {which}" in said


def session(command, stage, *overrides):
    with seam.known():
        plan = check(sections.parse(None, [*command, f"stages=[{stage}]", *overrides]))
    return StageSession(plan, placed(plan, stage, {}), plan.source())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_moves_the_network_that_is_its_turn_alone(command, precision):
    """The other has no gradient, and neither momentum nor weight decay moves it."""
    s = session(command, "adversaries", f"precision={precision}")
    for batch in s.batches.epoch(0):
        before = {name: [p.detach().clone() for p in net.parameters()] for name, net in s.stage.net.items()}
        with s.updater.autocast():
            terms = s.stage.losses(s.net, batch)
        s.updater.backward(terms["loss"], s.clock, s.stage.trained(batch))
        skipped = s.updater.step().get("amp_skipped", 0)
        moved = {name: not all(map(torch.equal, before[name], net.parameters())) for name, net in s.stage.net.items()}
        turn = "generator" if batch.number % 6 == 5 else "student"
        assert moved == {"student": turn == "student" and not skipped, "generator": turn == "generator" and not skipped}
    assert len(s.batches) == 9


def test_a_stage_without_images_may_have_more_in_a_batch_than_there_are(command):
    assert len(session(command, "adversaries", "task.batch_size=200").batches) == 9
    with pytest.raises(ConfigError, match="at most the 150 training images"):
        session(command, "pair", "task.batch_size=200")
    with pytest.raises(ConfigError, match="at least 2 for each of 1 rank"):
        session(command, "adversaries", "task.batch_size=1")


def test_a_dry_run_tries_every_one(command, tmp_path, capsys):
    with seam.known():
        assert main(["--dry-run", *command, f"out={tmp_path / 'out'}"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    steps = {words[0]: words[1:4] for words in lines if words and words[0] in STAGES}
    assert steps == {stage: ["2", "x", str(STEPS[stage])] for stage in STAGES}
    assert list(tmp_path.iterdir()) == []
