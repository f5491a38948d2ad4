"""The benchmark measures: its figures come from real saves of a network of a few kilobytes."""

import math

import torch

from tools.bench_parts.checkpoint import Training, saves


def test_figures_of_a_small_network(tmp_path):
    training = Training("resnet10", 2, 2, torch.device("cpu"))
    figures = saves(training, tmp_path, rounds=3)
    assert {len(values) for values in figures.values()} == {3}
    assert all(math.isfinite(value) for values in figures.values() for value in values)
    for name in ("step", "synchronous", "call", "during", "after"):
        assert min(figures[name]) > 0
    assert [path.name for path in (tmp_path / "background").glob("*.pt")] == ["step-00000003.pt"]
