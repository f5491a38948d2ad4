import pytest
import torch

from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console
from dist_rmd.engine.observer import Observer
from dist_rmd.engine.writers import Writers, read_metrics
from dist_rmd.errors import NonFiniteLoss


@pytest.fixture
def observed(tmp_path):
    warn = lambda metrics: "too large" if metrics["train/loss"] > 5 else None  # noqa: E731
    writers = Writers(tmp_path, "rgrl", rank=0)
    console = Console(rank=0, every=3600)
    console.start("rgrl", done=0, steps=4)
    observer = Observer("rgrl", writers, console, every=2, batch_size=8, warn=warn)
    yield observer, lambda: read_metrics(tmp_path / "metrics.jsonl")
    writers.close()


def run(observer, values):
    for step, value in enumerate(values, start=1):
        observer.step(Clock(step=step), {"loss": torch.tensor(value)}, lr=0.1)


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
        observer.flush(Clock(step=3))


def test_the_stages_warning_is_said(observed, capsys):
    run(observed[0], [1.0, 1.0, 9.0, 9.0])
    assert capsys.readouterr().out.splitlines() == ["rgrl: too large"]
