"""A dry run finds what would go wrong, says what would be done, and leaves no trace."""

import re
import subprocess
import sys
import time

import pytest
from support import forked, small
from support.torchrun import child_environment
from support.whole_runs import stopped, tree

from dist_rmd.pipeline import dry_run
from dist_rmd.pipeline.command import main
from dist_rmd.stages.classifier import Classifier

COMMAND = [*small.RECIPE, "stages=[simsiam,classifier,rgrl]", "data.reader=memory", "name=a"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture
def command(data, tmp_path):
    return [*COMMAND, f"data.path={data}", f"out={tmp_path / 'out'}"]


def rows(output: str) -> dict[str, list[str]]:
    """Of the table: stage -> the other columns."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) in (7, 8) and row[0] != "stage"}


def test_readers_fit_themselves_to_what_numba_allows(command):
    words = [word for word in command if not word.startswith("data.reader=")]
    environment = child_environment(NUMBA_NUM_THREADS="1", OMP_NUM_THREADS="1")
    arguments = [sys.executable, "-m", "dist_rmd.train", "--dry-run", *words, "data.reader=ffcv"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr


def test_it_says_what_would_be_done_and_writes_nothing(command, tmp_path, capsys):
    assert main(["--dry-run", *command]) == 0
    output = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [], "not even out"
    assert f"{tmp_path / 'out' / 'a'}: 150 images, 10 classes, fp32\n" in output
    assert "rank 0 of 1: " in output
    assert list(rows(output)) == ["simsiam", "classifier", "rgrl"]
    for steps, batch, part, *_, loss, took in rows(output).values():
        assert (steps, batch, part) == ("2 x 4", "32", "32")
        assert float(loss) < 100
        assert re.fullmatch(r"~ \d:\d\d:\d\d", took)
    assert "MB free" in output


def test_time_is_estimated_from_steps_and_memory_from_their_peak(command, monkeypatch, capsys):
    """Each stage is tried STEPS times; what a step takes is told apart from what it takes once."""
    slow = 0.05
    made = []

    def losses(stage, net, batch):
        made.append(len(batch.labels))
        time.sleep(1.0 if len(made) == 1 else slow)
        return taught(stage, net, batch)

    taught = Classifier.losses
    monkeypatch.setattr(Classifier, "losses", losses)
    more = ["stages=[classifier]", "task.epochs=100", "task.eval_every=100"]
    assert main(["--dry-run", *command, *more]) == 0
    output = capsys.readouterr().out
    assert set(made) == {32}
    assert 2 <= len(made) <= 1 + dry_run.STEPS
    said = re.search(r"time: about (\d+):(\d\d):(\d\d) in all, an estimate", output)
    hours, minutes, seconds = map(int, said.groups())
    assert 3600 * hours + 60 * minutes + seconds >= 100 * 4 * slow
    peak = float(re.search(r"memory: about (\S+) GB resident for each rank", output)[1])
    assert 0.05 < peak < 20


def test_it_tells_the_size_of_checkpoints_and_what_is_finished(command, tmp_path, capsys):
    assert stopped(command, "rgrl", 2) == 75
    before = tree(tmp_path)
    capsys.readouterr()
    assert main(["--dry-run", *command, "log.every=7"]) == 0
    output = capsys.readouterr().out
    assert tree(tmp_path) == before
    assert list(rows(output)) == ["simsiam *", "classifier *", "rgrl"]
    assert "changed since the last start: log.every: 1 -> 7" in output
    assert [len(row) for row in rows(output).values()] == [6, 6, 7], "what is finished takes no time"
    for stage, row in rows(output).items():
        checkpoint = next((tmp_path / "out" / "a" / stage.rstrip(" *") / "checkpoints").glob("*.pt"))
        assert row[4] == f"{checkpoint.stat().st_size / 1e6:.1f} MB"


def test_it_refuses_what_training_refuses(command, tmp_path, capsys):
    assert main(["--dry-run", *command, "task.lr=fast"]) == 2
    assert main(["--dry-run", *command, "data.path=/nowhere"]) == 65
    assert stopped(command, "simsiam", 1) == 75
    assert main(["--dry-run", *command, "seed=3"]) == 2
    assert "seed: 0 -> 3" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks(command, tmp_path):
    done = forked.ranks(2, "dist_rmd.train", "--dry-run", *command, "task.batch_size=33")
    assert done.returncode == 0, done.stdout
    assert list(tmp_path.iterdir()) == []
    for rank in range(2):
        assert done.stdout.count(f"rank {rank} of 2: ") == 1
    assert rows(done.stdout)["simsiam"][:3] == ["2 x 4", "32", "16"]
    assert rows(done.stdout)["rgrl"][:3] == ["2 x 4", "33", "17 16"]
