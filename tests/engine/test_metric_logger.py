import pytest
import torch

from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console
from dist_rmd.engine.metric_logger import MetricLogger
from dist_rmd.engine.writers import Writers, read_metrics
from dist_rmd.errors import NonFiniteLoss
from dist_rmd.run.folder import RunFolder


@pytest.fixture
def observed(tmp_path):
    warn = lambda metrics: "too large" if metrics.get("train/loss", 0) > 5 else None  # noqa: E731
    writers = Writers(RunFolder(tmp_path), "rgrl", rank=0)
    writers.open(Clock())
    console = Console(rank=0, every=3600, folder=RunFolder(tmp_path))
    console.start("rgrl", done=0, steps=4)
    readings = lambda: {"train/lr": 0.1}  # noqa: E731
    observer = MetricLogger("rgrl", writers, console, every=2, batch_size=8, readings=readings, warn=warn)
    yield observer, lambda: read_metrics(tmp_path / "metrics.jsonl")
    writers.close()


def run(observer, values):
    for step, value in enumerate(values, start=1):
        observer.step(Clock(step=step), {"loss": torch.tensor(value)})


def test_means_are_written_every_n_steps(observed):
    observer, records = observed
    run(observer, [1.0, 3.0, 5.0])
    observer.flush(Clock(step=3, epoch=1))
    observer.flush(Clock(step=3, epoch=1))  # nothing new
    observer.evaluated(Clock(step=3, epoch=1), {"test/top1": 50.0})
    first, rest, second = records()
    assert (first["step"], first["train/loss"], first["train/lr"]) == (2, 2.0, 0.1)
    assert (rest["step"], rest["train/loss"]) == (3, 5.0)
    assert second == {"stage": "rgrl", "epoch": 1, "step": 3, "test/top1": 50.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(observed, bad):
    observer, records = observed
    with pytest.raises(NonFiniteLoss, match="rgrl: train/loss") as caught:
        run(observer, [1.0, bad])
    assert caught.value.code == 70
    assert records() == []


def test_nothing_is_saved_unchecked(observed):
    """The steps after the last point of the curve are looked at before a checkpoint."""
    observer, _ = observed
    run(observer, [1.0, 1.0, float("nan")])
    with pytest.raises(NonFiniteLoss, match="up to 3"):
        observer.state_dict(Clock(step=3))


def test_epochs_since_the_record_are_counted_from_the_earliest_of_several(observed):
    observer, _ = observed
    assert observer.epochs_since_record == 0
    since = []
    for epoch, score in ((2, 50.0), (4, 60.0), (6, 60.0), (8, 55.0), (10, 61.0)):
        observer.evaluated(Clock(step=epoch, epoch=epoch), {"val/top1": score, "test/top1": 90 - score})
        since.append(observer.epochs_since_record)
    assert since == [0, 0, 2, 4, 0]


def test_only_a_record_is_a_score(observed):
    observer, _ = observed
    scores = [observer.evaluated(Clock(), {"test/top1": top1, "test/other": 99.0}) for top1 in (50.0, 50.0, 40.0, 60.0)]
    assert scores == [50.0, None, None, 60.0]


def test_another_observer_goes_on_with_the_same_means_and_record(observed, tmp_path):
    observer, records = observed
    run(observer, [1.0])
    observer.evaluated(Clock(step=1), {"test/top1": 50.0})
    state = observer.state_dict(Clock(step=1))
    other = MetricLogger("rgrl", observer.writers, observer.console, 2, 8, dict, observer.warn)
    other.load_state_dict(state, torch.device("cpu"))
    other.step(Clock(step=2), {"loss": torch.tensor(4.0)})
    assert records()[-1]["train/loss"] == 2.5
    assert other.evaluated(Clock(step=2), {"test/top1": 45.0}) is None


def test_an_evaluation_may_be_warned_of_too(tmp_path, capsys):
    console = Console(rank=0, every=3600, folder=RunFolder(tmp_path))
    writers = Writers(RunFolder(tmp_path), "rgrl", rank=1)  # which writes nothing
    warn = lambda metrics: f"only {metrics['test/other']:g}" if metrics["test/other"] < 2 else None  # noqa: E731
    observer = MetricLogger("rgrl", writers, console, every=2, batch_size=8, readings=dict, warn=warn)
    for other in (3.0, 1.0):
        observer.evaluated(Clock(step=1), {"test/top1": 50.0, "test/other": other})
    assert capsys.readouterr().out.splitlines() == ["rgrl: only 1"]


def test_the_stages_warning_is_said(observed, capsys):
    run(observed[0], [1.0, 1.0, 9.0, 9.0])
    assert capsys.readouterr().out.splitlines() == ["rgrl: too large"]
