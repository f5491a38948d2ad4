import pytest
import torch

from tools.bench_parts.images import generate
from tools.bench_parts.loop import Epochs
from tools.bench_parts.settings import Settings
from tools.bench_parts.timing import Stopwatch


@pytest.mark.parametrize("stage", ["simsiam", "rgrl"])
def test_a_call_trains_so_many_steps_and_its_time_has_a_split(tmp_path, stage):
    data = generate(tmp_path / "images", 300, 20).folder
    settings = Settings("cpu", 1, True, 1, data, tmp_path, (), ())
    options = ("data.reader=memory", "data.compile_views=false", "model.width=8", "simsiam.proj_hidden=8")
    epochs = Epochs(settings, stage, steps=3, batch=32, options=options)
    before = [parameter.detach().clone() for parameter in epochs.net.parameters()]
    epochs()
    assert (epochs.clock.step, epochs.clock.epoch) == (3, 1)
    assert not any(torch.equal(a, b) for a, b in zip(before, epochs.net.parameters(), strict=True) if a.ndim == 4)
    seconds = epochs.watch.split(epochs)
    assert epochs.clock.step == 6
    assert all(seconds[phase] > 0 for phase in Stopwatch.PHASES)
