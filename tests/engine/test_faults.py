import os
import signal

import pytest
import torch

from dist_rmd.engine import faults
from dist_rmd.engine.clock import Clock
from dist_rmd.engine.signals import StopRequest

TERMS = {"loss": torch.tensor(2.0), "loss_task": torch.tensor(1.0)}


@pytest.fixture
def ask(monkeypatch):
    def ask(text: str) -> None:
        monkeypatch.setenv(faults.VARIABLE, text)
        faults._fault.cache_clear()

    yield ask
    monkeypatch.undo()
    faults._fault.cache_clear()


def test_without_a_request_nothing_happens(ask):
    ask("")
    assert faults.inject(TERMS, Clock(), "rgrl") is TERMS


def test_only_in_the_step_of_the_rank_of_the_stage_of_the_first_attempt(ask, monkeypatch):
    ask("kind=raise,rank=0,step=3,stage=rgrl")
    assert faults.inject(TERMS, Clock(step=2), "rgrl") is TERMS
    assert faults.inject(TERMS, Clock(step=3), "simsiam") is TERMS
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert faults.inject(TERMS, Clock(step=3), "rgrl") is TERMS
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(RuntimeError, match=faults.VARIABLE):
        faults.inject(TERMS, Clock(step=3), "rgrl")
    ask("kind=raise,rank=1,step=3")
    assert faults.inject(TERMS, Clock(step=3), "rgrl") is TERMS  # this is rank 0


def test_a_loss_that_is_not_a_number(ask):
    ask("kind=nan,rank=0,step=3")
    terms = faults.inject(TERMS, Clock(step=3), "rgrl")
    assert terms["loss"].isnan()
    assert terms["loss_task"] == 1
    assert TERMS["loss"] == 2


def test_a_signal_to_itself(ask):
    ask("kind=SIGUSR2,rank=0,step=3")
    with StopRequest() as request:
        faults.inject(TERMS, Clock(step=3), "rgrl")
        assert request.signal == signal.SIGUSR2


def test_the_variable_is_read_once(ask):
    ask("kind=nan,rank=0,step=3")
    faults.inject(TERMS, Clock(), "rgrl")
    del os.environ[faults.VARIABLE]
    assert faults.inject(TERMS, Clock(step=3), "rgrl")["loss"].isnan()
