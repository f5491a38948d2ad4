"""What one rank finds out by itself; tests/distributed/test_rank_group.py has what several do."""

import signal

import pytest
import torch

from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.signals import StopRequest
from dist_rmd.engine.step_check import StepCheck
from dist_rmd.errors import NonFiniteLoss

FINE = {"loss": torch.tensor(1.0), "loss_node": torch.tensor(-1e30)}


def step_check(minutes: float = 60, request: StopRequest | None = None) -> StepCheck:
    return StepCheck("rgrl", RankGroup(0, 1, 30), request or StopRequest(), minutes)


def agreed(check: StepCheck, terms=FINE, indices=(5, 7)) -> StepCheck:
    check.note(terms, torch.tensor(indices))
    check.agree(Clock(step=4))
    return check


def test_a_step_without_events():
    quiet = agreed(step_check())
    assert (quiet.stop_signal, quiet.save_due) == (0, False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_term_that_is_not_finite(bad, dtype):
    terms = {"loss": torch.tensor(1.0, dtype=dtype), "loss_node": torch.tensor(bad, dtype=dtype, requires_grad=True)}
    with pytest.raises(NonFiniteLoss) as caught:
        agreed(step_check(), terms)
    message = "rgrl: loss_node not finite in optimizer step 5 on rank 0; samples 5, 7; the weights are those of step 4"
    assert str(caught.value).startswith(message)
    assert (caught.value.code, caught.value.agreed, caught.value.facts) == (70, True, {"samples": [5, 7]})


def test_a_message_stays_one_line_however_large_the_batch():
    with pytest.raises(
        NonFiniteLoss, match=r"samples 0, 1, 2, 3, 4, 5, 6, 7 and 92 more \(all in exit.json\);"
    ) as caught:
        agreed(step_check(), {"loss": torch.tensor(float("nan"))}, range(100))
    assert caught.value.facts["samples"] == list(range(100))


def test_the_terms_may_change_from_step_to_step():
    """A stage may have a term in some steps only."""
    watching = agreed(step_check(), FINE)
    with pytest.raises(NonFiniteLoss, match="rgrl: loss_warmup not finite"):
        agreed(watching, {"loss_warmup": torch.tensor(float("nan")), "loss": torch.tensor(1.0)})


def test_a_request_to_stop():
    with StopRequest() as request:
        watching = step_check(request=request)
        signal.raise_signal(signal.SIGUSR1)
        assert agreed(watching).stop_signal == signal.SIGUSR1


def test_a_checkpoint_is_due_every_so_many_minutes(monkeypatch):
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    watching = step_check(minutes=2)
    now += 119
    assert not agreed(watching).save_due
    now += 1
    assert agreed(watching).save_due
    assert agreed(watching).save_due, "until it has been saved"
    watching.saved()
    assert not watching.save_due
    now += 119
    assert not agreed(watching).save_due
    now += 1
    assert agreed(watching).save_due


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_term_on_a_gpu():
    with pytest.raises(NonFiniteLoss, match="loss_node"):
        agreed(step_check(), {"loss": torch.tensor(1.0).cuda(), "loss_node": torch.tensor(float("nan")).cuda()})
    agreed(step_check(), {name: term.cuda() for name, term in FINE.items()})
