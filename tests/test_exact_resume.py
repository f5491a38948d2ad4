"""A run stopped or killed at any optimizer step, and started again, ends with the bits of one that never was."""

import signal
from pathlib import Path

import pytest
from support import forked, small
from support.whole_runs import assert_same, fault, stopped

from dist_rmd import report
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.pipeline.command import main
from dist_rmd.run.artefacts import load

STAGES = ("simsiam", "classifier", "rgrl")
# Two epochs of 4 steps; points of the curve and checkpoints that do not fall on epochs' ends.
COMMAND = [*small.RECIPE, f"stages=[{','.join(STAGES)}]", "log.every=3", "checkpoint.every=2", "name=a"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


def finished(arguments: list[str], out: Path) -> Path:
    """The folder of a run that nothing happened to."""
    assert main([*arguments, f"out={out}"]) == 0
    return out / "a"


@pytest.fixture(scope="module")
def command(data):
    return [*COMMAND, f"data.path={data}", "data.reader=memory"]


@pytest.fixture(scope="module")
def straight(command, tmp_path_factory):
    return finished(command, tmp_path_factory.mktemp("straight"))


def test_stopped_twice_in_every_stage(command, straight, tmp_path):
    """Within an epoch, after its last step before the evaluation, and after the last step of all."""
    arguments = [*command, f"out={tmp_path}"]
    for stage, step in (("simsiam", 2), ("simsiam", 4), ("classifier", 5), ("classifier", 8), ("rgrl", 1), ("rgrl", 7)):
        assert stopped(arguments, stage, step) == 75
        state = Checkpoints(tmp_path / "a" / stage / "checkpoints", 2).load_newest()
        assert state
        assert state["clock"] == {"step": step, "epoch": (step - 1) // 4, "batch": (step - 1) % 4 + 1}
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight, *STAGES)


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "fp16"])
def test_students_stopped_twice(command, tmp_path, precision):
    """DFND has two optimizers, and chooses its images anew at each start: 3 steps an epoch."""
    arguments = [*command, "stages=[teacher,vkd,dfnd]", "dfnd.keep=0.7", f"precision={precision}"]
    straight = finished(arguments, tmp_path / "straight")
    arguments.append(f"out={tmp_path}")
    for stage, step in (("teacher", 7), ("vkd", 3), ("vkd", 8), ("dfnd", 2), ("dfnd", 4)):
        assert stopped(arguments, stage, step) == 75
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight, "teacher", "vkd", "dfnd")
    newest = Checkpoints(tmp_path / "a" / "dfnd" / "checkpoints", 2).load_newest()
    assert newest
    assert newest["updater"]["adam"]["state"][0]["exp_avg"].any()


def test_stopped_with_scaled_losses(command, tmp_path):
    """fp16: the scaler's state goes on too, and steps that it skips are counted once."""
    arguments = [*command, "stages=[classifier]", "precision=fp16"]
    straight = finished(arguments, tmp_path / "straight")
    arguments.append(f"out={tmp_path}")
    assert [stopped(arguments, "classifier", step) for step in (2, 4)] == [75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight, "classifier")
    newest = Checkpoints(tmp_path / "a" / "classifier" / "checkpoints", 2).load_newest()
    assert newest
    assert newest["updater"]["scaler"]["scale"] > 0


def test_a_patience_that_ends_is_the_same_after_any_stop(command, tmp_path, capsys):
    """3 steps an epoch of the 120 labels that are not held out; nothing rises at this learning rate."""
    early = ["data.holdout=0.2", "task.epochs=9", "task.lr=1e-9", "task.patience=2", "stages=[classifier]"]
    arguments = [*command, *early, "task.optimizer=adamw"]
    straight = finished(arguments, tmp_path / "straight")
    scores = load(straight / "classifier" / "artefact.pt")["scores"]
    assert len(scores) < 9
    record = max(scores, key=lambda score: score["val/top1"])
    assert scores[-1]["epoch"] - record["epoch"] == 2
    assert f"ended after epoch {len(scores)} of 9" in capsys.readouterr().out
    arguments.append(f"out={tmp_path}")
    last = scores[-1]["step"]
    assert [stopped(arguments, "classifier", step) for step in (1, last - 1, last)] == [75, 75, 75]
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight, "classifier")
    capsys.readouterr()
    assert report.main([str(straight)]) == 0
    assert "unfinished" not in capsys.readouterr().out


@pytest.mark.parametrize("step", range(1, 9))
@pytest.mark.slow
def test_stopped_after_any_step(command, straight, tmp_path, step):
    for stage in STAGES:
        assert stopped([*command, f"out={tmp_path}"], stage, step) == 75
    assert main([*command, f"out={tmp_path}"]) == 0
    assert_same(tmp_path / "a", straight, *STAGES)


def test_stopped_while_ffcv_reads(command, straight, tmp_path):
    """The reader may even be another one after each start."""
    arguments = [*command, "stages=[simsiam]", f"out={tmp_path}"]
    assert [stopped([*arguments, "data.reader=ffcv"], "simsiam", step) for step in (2, 4)] == [75, 75]
    assert main([*arguments, "data.reader=ffcv"]) == 0
    assert_same(tmp_path / "a", straight, "simsiam")


def test_killed_between_checkpoints_within_an_epoch(command, straight, tmp_path):
    """kill -9 of a run that saves after every step."""
    arguments = [*command, "stages=[simsiam]", f"out={tmp_path}"]
    with fault("kind=SIGKILL,rank=0,step=6"):
        killed = forked.command("dist_rmd.train", *arguments, "checkpoint.minutes=1e-9")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = Checkpoints(tmp_path / "a" / "simsiam" / "checkpoints", 2).load_newest()
    assert state
    assert state["clock"]["step"] in (5, 6)  # the last one may not have been written yet
    assert main(arguments) == 0
    assert_same(tmp_path / "a", straight, "simsiam")
