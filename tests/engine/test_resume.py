import pytest
import torch
from torch import nn

from dist_rmd.config import Optimization
from dist_rmd.engine import resume
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console
from dist_rmd.engine.metric_logger import MetricLogger
from dist_rmd.engine.updater import Updater
from dist_rmd.engine.writers import Writers
from dist_rmd.errors import DataError
from dist_rmd.models.average import average_of
from dist_rmd.run.folder import RunFolder


class Stage:
    """A network, and a value for each of 5 samples that training changes."""

    optimization = Optimization()

    def __init__(self, seed, inputs=3):
        torch.manual_seed(seed)
        self.net = nn.Linear(inputs, 2)
        self.seen = torch.zeros(5)
        self.memory, self.averages = {"seen": self.seen}, {"mean": average_of(self.net)}

    def eval_nets(self):
        return {"": self.net, "mean": self.averages["mean"]}


def parts(folder, seed, inputs=3):
    stage = Stage(seed, inputs)
    updater = Updater([{"params": list(stage.net.parameters())}], Optimization(), 5, torch.device("cpu"), "fp16")
    writers, console = Writers(RunFolder(folder), "stage", 0), Console(0, 3600, RunFolder(folder))
    observer = MetricLogger("stage", writers, console, 50, 4, updater.readings, lambda metrics: None)
    return stage, updater, Clock(), observer


def trained(folder):
    stage, updater, clock, observer = made = parts(folder, 0)
    for _ in range(3):
        updater.backward(stage.net(torch.ones(1, 3)).sum(), clock)
        terms = updater.step()
        clock.tick()
        observer.meters.add(terms, 4)
        stage.seen += 1
    observer.best = 70.0
    return made


def save(checkpoints, lineage, made):
    checkpoints.save(made[2].step, resume.capture(lineage, *made))
    checkpoints.wait()


def test_everything_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert resume.restore(checkpoints, "key", False, *parts(tmp_path, 0)) == ["key"]
    stage, updater, clock, observer = made = trained(tmp_path)
    save(checkpoints, ["key"], made)
    other, other_updater, other_clock, other_observer = others = parts(tmp_path, 1)
    assert resume.restore(checkpoints, "key", False, *others) == ["key"]
    assert other_clock == clock == Clock(step=3, batch=3)
    assert all(torch.equal(a, b) for a, b in zip(stage.net.parameters(), other.net.parameters(), strict=True))
    mine, theirs = (u.state_dict() for u in (updater, other_updater))
    buffers = [state["optimizer"]["state"][0]["momentum_buffer"] for state in (mine, theirs)]
    assert torch.equal(*buffers)
    assert mine["scaler"] == theirs["scaler"]
    assert other.seen.tolist() == [3.0] * 5
    assert other_observer.best == 70
    assert other_observer.meters.reduce()["train/grad_norm"] == observer.meters.reduce()["train/grad_norm"]


def test_a_checkpoint_of_other_data_is_refused_unless_forced(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, ["key"], trained(tmp_path))
    with pytest.raises(DataError, match=r"other images, labels or settings.*--force"):
        resume.restore(checkpoints, "another", False, *parts(tmp_path, 0))
    assert resume.restore(checkpoints, "another", True, *parts(tmp_path, 0)) == ["key", "another"]


def test_a_stage_that_is_finished_cannot_be_forced_to_go_on(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    stage, updater, clock, observer = trained(tmp_path)
    clock.epoch = stage.optimization.epochs
    save(checkpoints, ["key"], (stage, updater, clock, observer))
    assert resume.restore(checkpoints, "key", False, *parts(tmp_path, 0)) == ["key"]
    with pytest.raises(DataError, match="finished under other settings"):
        resume.restore(checkpoints, "another", True, *parts(tmp_path, 0))


def test_another_network_is_refused_even_by_force(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    save(checkpoints, ["key"], trained(tmp_path))
    with pytest.raises(DataError, match="another network"):
        resume.restore(checkpoints, "another", True, *parts(tmp_path, 0, inputs=4))


def test_the_networks_that_were_evaluated_are_found_in_a_checkpoint(tmp_path):
    stage, updater, clock, observer = trained(tmp_path)
    stage.net = nn.ModuleDict({"student": stage.net, "other": nn.Linear(1, 1)})
    stage.eval_nets = lambda: {"": stage.averages["mean"], "student": stage.net["student"]}
    state = resume.capture(["key"], stage, updater, clock, observer)
    assert state["evaluated"] == {"": "averages.mean", "student": "net.student"}
    for name, net in stage.eval_nets().items():
        found = resume.evaluated(state, name)
        assert found.keys() == net.state_dict().keys()
        assert all(torch.equal(found[key], value) for key, value in net.state_dict().items())
    older = {"net": stage.net["student"].state_dict()}
    assert resume.evaluated(older) == older["net"]
