import time

import pytest
import torch
from torchrun import on_ranks

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


def test_speed_counts_training_and_waiting_but_not_evaluation():
    meters = Meters()
    slow = (time.sleep(0.05) or step for step in range(4))
    for _ in meters.waiting(slow):
        time.sleep(0.05)
        meters.add({"loss": torch.tensor(0.0)}, images=10)
        time.sleep(0.1)
        meters.resume_timer()
    result = meters.reduce()
    assert result["perf/images_per_s"] == pytest.approx(40 / 0.4, rel=0.3)
    assert result["perf/data_wait_frac"] == pytest.approx(0.5, abs=0.15)


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
def test_a_state_of_two_ranks_goes_on_with_any_number(ranks, tmp_path):
    """The mean of rank losses 0 and 1 is 0.5, however many ranks go on with them."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "from dist_rmd.engine.meters import Meters\n"
        "dist.init_process_group('gloo')\n"
        "meters = Meters()\n"
        "state = {'steps': 1, 'names': ['loss'], 'sums': torch.tensor([[0.0], [1.0]], dtype=torch.float64)}\n"
        "meters.load_state_dict(state, torch.device('cpu'))\n"
        "saved = meters.state_dict()\n"
        "assert len(saved['sums']) == dist.get_world_size()\n"
        "meters.add({'loss': torch.tensor(2.5)}, images=1)\n"
        "assert meters.reduce()['train/loss'] == 1.5\n"
        "dist.destroy_process_group()\n"
    )
    on_ranks(ranks, script)


def test_mean_over_ranks(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, torch.distributed as dist\n"
        "from dist_rmd.engine.meters import Meters\n"
        "dist.init_process_group('gloo')\n"
        "meters = Meters()\n"
        "meters.add({'loss': torch.tensor(float(dist.get_rank()))}, images=1)\n"
        "assert meters.reduce()['train/loss'] == 0.5\n"
        "dist.destroy_process_group()\n"
    )
    on_ranks(2, script)
