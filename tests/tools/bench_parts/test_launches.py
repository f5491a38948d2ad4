import torch
from torch import nn

from tools.bench_parts.launches import Calls, chain, recipes


def test_views_and_allocations_launch_nothing():
    x = torch.ones(4, 3)
    with Calls() as calls:
        nn.functional.relu(x.view(3, 4).T)
        torch.empty(3)
    assert (calls.calls, calls.launches) == (4, 1)


def test_a_stage_comes_after_those_that_it_needs():
    assert chain("modul") == ["teacher", "division", "modul"]
    assert recipes("modul") == {"teacher", "student"}
