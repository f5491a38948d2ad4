import json
import re

import pytest
from rich.console import Console as RichConsole
from rich.table import Column, Table

from dist_rmd.engine.clock import Clock
from dist_rmd.engine.console import Console, duration, print_table
from dist_rmd.engine.score import Score
from dist_rmd.run.folder import RunFolder

METRICS = {"train/loss": 0.5, "perf/images_per_s": 1234.5}
SCORE = Score("test/top1", 87.654, 90.0, epoch=1)


def test_plain_lines_where_there_is_no_terminal(capsys, tmp_path):
    console = Console(rank=0, every=0, folder=RunFolder(tmp_path), stages=("simsiam", "rgrl"))
    console.start("rgrl", done=10, steps=30, epochs=3)
    console.evaluated(SCORE)
    console.step(Clock(step=20, epoch=1), METRICS)
    console.stop()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "rgrl (stage 2 of 2): epoch 2 of 3, step 20/30  loss 0.5000  1,234 images/s  test/top1 87.65"
    )
    assert ", best 90.00  0:00:0" in line
    assert line.endswith(" left")
    assert "\r" not in line
    assert "\x1b" not in line


def test_the_status_is_there_for_programs(tmp_path):
    console = Console(rank=0, every=0, folder=RunFolder(tmp_path))
    console.start("rgrl", done=10, steps=30)
    console.step(Clock(step=20, epoch=1), METRICS)
    status = json.loads((tmp_path / "status.json").read_text())
    assert {key: status[key] for key in ("stage", "epoch", "step", "steps")} == {
        "stage": "rgrl", "epoch": 1, "step": 20, "steps": 30,
    }  # fmt: skip
    assert status["seconds_left"] >= 0


def test_lines_keep_their_distance(capsys, tmp_path):
    console = Console(rank=0, every=3600, folder=RunFolder(tmp_path))
    console.start("rgrl", done=0, steps=30)
    for step in range(30):
        console.step(Clock(step=step), METRICS)
    assert capsys.readouterr().out == ""


def test_other_ranks_are_silent(capsys, tmp_path):
    console = Console(rank=1, every=0, folder=RunFolder(tmp_path))
    console.start("rgrl", done=0, steps=30)
    console.step(Clock(step=1), METRICS)
    console.say("hello")
    console.stop()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("columns", [1, 30, 80, 300])
def test_a_table_is_whole_on_any_terminal(capsys, columns):
    table = Table(Column("run", no_wrap=True), Column("why", min_width=20))
    table.add_row("CE+RMDNet (K=2)-seed0", "its loss was not finite, " * 4)
    print_table(RichConsole(width=columns, soft_wrap=True), table)
    out = capsys.readouterr().out
    assert "CE+RMDNet (K=2)-seed0" in out
    assert out.count("finite") == 4


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (61, "0:01:01"), (36061.4, "10:01:01")])
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_bar_says_where_training_is_and_stays_on_the_terminal(monkeypatch, capsys, tmp_path, columns):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's own switch: behave as on a terminal
    monkeypatch.setenv("COLUMNS", columns)
    console = Console(rank=0, every=3600, folder=RunFolder(tmp_path), stages=("simsiam", "classifier"))
    assert console.rich.is_terminal
    console.start("classifier", done=0, steps=4, epochs=2)
    console.step(Clock(step=2, epoch=0), METRICS)
    console.step(Clock(step=4, epoch=1), METRICS)
    console.evaluated(SCORE)
    console.stop()
    console.say("after it")
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]
    bar, numbers, after = lines[-3:]
    assert bar.startswith("classifier (stage 2 of 2) ━")
    assert "epoch 2 of 2, 100 %" in bar
    assert numbers == "  loss 0.5000  1,234 images/s  test/top1 87.65, best 90.00"
    assert after == "after it"


def test_what_has_no_epochs_says_none(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console(rank=0, every=0, folder=RunFolder(tmp_path), stages=("division",))
    console.start("division", done=0, steps=100)
    console.step(Clock(step=50))
    console.stop()
    out = capsys.readouterr().out
    assert "50 %" in out
    assert "epoch" not in out
    assert "stage 1" not in out, "of one stage alone nobody asks which it is"
