"""The benchmark measures: its figures come from real saves of a network of a few kilobytes."""

import math
import runpy
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent


def test_figures_of_a_small_network(tmp_path):
    bench = runpy.run_path(str(ROOT / "tools" / "bench_checkpoint.py"))
    training = bench["Training"]("resnet10", 2, 2, torch.device("cpu"))
    figures = bench["measure"](training, tmp_path, rounds=3)
    assert {len(values) for values in figures.values()} == {3}
    assert all(math.isfinite(value) for values in figures.values() for value in values)
    for name in ("step", "synchronous", "call", "during", "after"):
        assert min(figures[name]) > 0
    assert [path.name for path in (tmp_path / "background").glob("*.pt")] == ["step-00000003.pt"]
    assert bench["cell"]([3.0, 1.0, 2.0], 10, 1) == "20.0 (10.0..30.0)"
