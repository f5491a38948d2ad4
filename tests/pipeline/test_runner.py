"""Training from Python: `dist_rmd.train`."""

import signal

import pytest
import torch
from support import small
from support.forked import on_ranks
from support.whole_runs import assert_same, fault

from dist_rmd.errors import ConfigError, Stopped
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.runner import train

RECIPE = [*small.RECIPE, "stages=[classifier]", "data.reader=memory"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


def test_it_is_the_commands_run_to_the_bit_and_a_finished_one_is_read_back(data, tmp_path, capsys):
    words = [*RECIPE, f"data.path={data}"]
    assert main([*words, f"out={tmp_path}/command", "name=a"]) == 0
    run = train(None, *words, f"out={tmp_path}/python", "name=a")
    assert_same(run.path, tmp_path / "command" / "a", "classifier")
    capsys.readouterr()
    again = train(None, *words, f"out={tmp_path}/python", "name=a")
    first, *table = capsys.readouterr().out.splitlines()
    assert first == f"{run.path}: finished before, nothing to do"
    assert table[0].split() == ["stage", "result", "time"]
    assert again.scores("classifier") == run.scores("classifier")


def test_mistakes_and_stops_are_raised_and_signals_are_the_callers_again(data, tmp_path):
    words = [*RECIPE, f"data.path={data}", f"out={tmp_path}"]
    before = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(ConfigError, match=r"did you mean task\.lr"):
        train(None, *words, "task.rl=1")
    with fault("kind=SIGUSR2,rank=0,step=3,stage=classifier"), pytest.raises(Stopped, match="after step 4"):
        train(None, *words, "name=b")
    assert signal.getsignal(signal.SIGUSR2) == before
    run = train(None, *words, "name=b")
    assert run.folder.read_exit().code == 0


def test_every_rank_of_a_script_gets_the_finished_run(data, tmp_path):
    on_ranks(2, "runner", data, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert found[0]["world"] == 2
    assert all(torch.equal(found[0][name], found[1][name]) for name in ("weight", "probabilities"))
