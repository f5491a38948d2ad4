"""What a run says of its result: whole runs, by their commands."""

import shlex
from pathlib import Path

import pytest
from PIL import Image
from support import forked, small

from dist_rmd import predict, report
from dist_rmd.config import sections
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.outcome import StageOutcome, lines, settings
from dist_rmd.registry import lookup
from dist_rmd.run.finished import FinishedRun
from dist_rmd.run.folder import RunFolder


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    data = small.prepare(folder)
    return [*small.RECIPE, f"data.path={data}", "data.reader=memory", f"out={folder / 'runs of pets'}"]


def said_by(command, capsys):
    assert main(command) == 0
    return capsys.readouterr().out.splitlines()


def test_each_stage_says_its_score_and_the_run_its_table_and_what_comes_next(command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "a.png")
    said = said_by([*command, "stages=[simsiam,classifier]", "name=a"], capsys)
    run = FinishedRun(Path(command[-1].removeprefix("out=")) / "a")
    knn, top1 = ([record[tag] for record in run.scores(stage)] for stage, tag in (
        ("simsiam", "test/knn_top1"), ("classifier", "test/top1")))  # fmt: skip
    result = {
        "simsiam": f"test/knn_top1 {knn[-1]:.2f} %, best {max(knn):.2f} % (epoch 2)",
        "classifier": f"test/top1 {top1[-1]:.2f} %, best {max(top1):.2f} % (epoch {1 + top1.index(max(top1))})",
    }
    place = said.index(f"simsiam: {result['simsiam']}")
    assert said[place + 1] == f"classifier: {result['classifier']}"
    assert said[place + 2].startswith("finished in 0:")
    table = said[place + 3 : place + 6]
    assert [line.split()[0] for line in table] == ["stage", "simsiam", "classifier"]
    assert all(result[line.split()[0]] in line for line in table[1:])
    assert said[place + 6] == "next:"
    for line in said[place + 7 :]:  # as they stand
        program, *words = shlex.split(line, comments=True)
        assert str(run.path) in words
        if words[0] == "predict":
            assert predict.main(words[1:]) == 0
        elif program == "dist-rmd":
            assert report.main(words[1:] if words[0] == "report" else words) == 0
    assert [line.split()[:2] for line in said[place + 7 :]] == [
        ["dist-rmd", "report"], ["tensorboard", "--logdir"], ["dist-rmd", "suspects"], ["dist-rmd", "predict"],
    ]  # fmt: skip


def test_a_reused_stage_and_a_finished_run_say_their_results_too(command, capsys):
    said_by([*command, "stages=[simsiam]", "name=b"], capsys)
    again = said_by([*command, "stages=[simsiam]", "name=c"], capsys)
    (score,) = [line for line in again if line.startswith("simsiam: test/knn_top1 ")]
    assert [line for line in again if line.endswith(" reused")] == [
        f"simsiam  {score.removeprefix('simsiam: ')}  reused"
    ]
    finished = said_by([*command, "stages=[simsiam]", "name=c"], capsys)
    assert finished[0].endswith("finished before, nothing to do")
    assert f"simsiam  {score.removeprefix('simsiam: ')}  before" in finished


def test_of_several_ranks_one_speaks(command):
    done = forked.ranks(2, "dist_rmd.train", *command, "stages=[classifier]", "name=two")
    assert done.returncode == 0, done.stdout
    for words in ("classifier: test/top1 ", "finished in ", "next:", "  dist-rmd report "):
        assert done.stdout.count(words) == 1


def test_a_division_is_told_by_its_sets_and_has_a_report_of_its_own():
    division = lookup("stages", "division")
    found = {"division/clean": 1200.0, "division/closed": 30.0, "division/open": 4.0, "division/undecided": 2.0}
    text = division.summary(found)
    assert text == "1,200 clean, 30 closed, 4 open, 2 of them undecided"
    assert lines(RunFolder("runs/x"), {"division": StageOutcome(division, text, "0:00:07")}) == [
        "stage     result                                               time",
        f"division  {text}  0:00:07",
        "next:",
        "  dist-rmd report division runs/x",
        "  tensorboard --logdir runs/x",
    ]


def test_runs_are_compared_by_what_they_read_and_have_set():
    overrides = ["stages=[simsiam,classifier]", "loss.name=gce", "loss.options.q=0.5", "relation.k=3", "log.every=7"]
    config = sections.parse(None, [*overrides, "simsiam.lr=0.5", "task.milestones=[3,4]"])
    found = settings(config, {name: lookup("stages", name) for name in config.stages})
    assert found["stages"] == "simsiam classifier"
    assert (found["loss.name"], found["loss.options.q"], found["noise.rate"]) == ("gce", 0.5, 0.0)
    assert (found["simsiam.lr"], found["task.milestones"]) == (0.5, "[3, 4]")
    assert "relation.k" not in found, "no stage of the run reads it"
    assert not {"log.every", "simsiam.momentum"} & found.keys(), "neither changes the result, or is as usual"
