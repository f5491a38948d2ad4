import time

import pytest
import torch
from support.forked import on_ranks

from dist_rmd.engine.meters import Meters


def test_means_since_the_last_call():
    meters = Meters()
    for value in (1.0, 2.0, 6.0):
        meters.add({"loss": torch.tensor(value), "extra": torch.tensor(-value)}, images=8)
    result = meters.reduce()
    assert result["train/loss"] == 3
    assert result["train/extra"] == -3
    meters.add({"loss": torch.tensor(5.0)}, images=8)
    assert meters.reduce()["train/loss"] == 5


def test_a_pair_is_the_sum_of_parts_over_the_sum_of_wholes():
    meters = Meters()
    for part, whole in ((1, 2), (0, 0), (3, 10)):
        meters.add({"loss": torch.tensor(1.0), "wrong": torch.tensor([part, whole])}, images=8)
    assert meters.reduce()["train/wrong"] == 4 / 12
    meters.add({"loss": torch.tensor(1.0), "wrong": torch.tensor([0, 0])}, images=8)
    assert "train/wrong" not in meters.reduce(), "neither 0 nor NaN: there was nothing to count"


def test_steps_may_have_terms_of_their_own():
    meters, other = Meters(), Meters()
    for value in (1.0, 2.0):
        meters.add({"loss": torch.tensor(value), "loss_student": torch.tensor(value)}, images=8)
    other.load_state_dict(meters.state_dict(), torch.device("cpu"))
    for each in (meters, other):
        each.add({"loss": torch.tensor(-6.0), "loss_generator": torch.tensor(-6.0)}, images=8)
        assert each.steps == 3
        result = each.reduce()
        assert (result["train/loss"], result["train/loss_student"], result["train/loss_generator"]) == (-1, 1.5, -6)


def test_speed_counts_training_and_waiting_but_not_evaluation():
    """Bounds that hold however long a busy machine takes: a sleep is never shorter than asked for."""
    began, evaluating = time.perf_counter(), 0.0
    meters = Meters()
    for _ in meters.waiting(time.sleep(0.02) or step for step in range(4)):
        time.sleep(0.03)
        meters.add({"loss": torch.tensor(0.0)}, images=10)
        before = time.perf_counter()
        time.sleep(0.1)
        evaluating += time.perf_counter() - before
        meters.resume_timer()
    result = meters.reduce()
    passed = time.perf_counter() - began
    seconds, waited = result["perf/train_s"], result["perf/data_wait_frac"] * result["perf/train_s"]
    assert 4 * (0.02 + 0.03) <= seconds <= passed - evaluating
    assert 4 * 0.02 <= waited <= seconds - 4 * 0.03
    assert result["perf/images_per_s"] == pytest.approx(40 / seconds)
    assert result["perf/cpu_s"] <= seconds - 4 * (0.02 + 0.03)  # it has slept


def test_cpu_time_is_that_of_the_steps():
    meters, began = Meters(), time.process_time()
    while time.process_time() < began + 0.2:
        pass
    meters.resume_timer()  # an evaluation
    began = time.process_time()
    while time.process_time() < began + 0.1:
        pass
    meters.add({"loss": torch.tensor(0.0)}, images=10)
    assert 0.1 <= meters.reduce()["perf/cpu_s"] < 0.2


def test_the_state_goes_on_with_the_same_means():
    meters, other = Meters(), Meters()
    meters.add({"loss": torch.tensor(1.0)}, images=8)
    other.load_state_dict(meters.state_dict(), torch.device("cpu"))
    for each in (meters, other):
        each.add({"loss": torch.tensor(0.1)}, images=8)
    assert meters.reduce()["train/loss"] == other.reduce()["train/loss"] == (1 + torch.tensor(0.1).double().item()) / 2


def test_no_steps_are_a_state_too():
    meters = Meters()
    meters.load_state_dict(Meters().state_dict(), torch.device("cpu"))
    assert meters.steps == 0


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_means_over_ranks_go_on_from_a_state_of_two_with_any_number(ranks):
    on_ranks(ranks, "meters")
