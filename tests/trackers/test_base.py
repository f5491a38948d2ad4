"""Whole runs that a tracker follows: what it is told, and what a run does without."""

import json
import sys

import pytest
from support import small, trackers
from support.forked import on_ranks
from support.whole_runs import records, stopped

from dist_rmd import config
from dist_rmd.config import sections
from dist_rmd.pipeline.command import main

BROKEN = '''
"""Breaks at its third call."""

from dist_rmd.trackers.base import Tracker

__all__ = ["Broken"]


class Broken(Tracker):
    calls = 0

    def begin(self, name, folder, configuration, identity):
        return "1"

    def scalars(self, stage, step, values):
        self.calls += 1
        if self.calls == 2:
            raise ConnectionError("no network\\nat all")

    def end(self, status):
        raise AssertionError("it was left out")
'''


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [*small.RECIPE, f"data.path={data}", "data.reader=memory", "stages=[simsiam,classifier]", "name=a"]


@pytest.fixture(autouse=True)
def _known():
    with trackers.known():
        yield


def told(run):
    """What the notepad has, in the form of metrics.jsonl's records without their epochs."""
    notes = [note for note in trackers.read(run) if "values" in note]
    return [{"stage": note["stage"], "step": note["step"], **note["values"]} for note in notes]


def written(run):
    found = records(run, "simsiam", "classifier")
    return [{name: value for name, value in record.items() if name != "epoch"} for record in found]


def test_it_is_told_what_metrics_jsonl_has_also_over_a_stop(command, tmp_path):
    arguments = [*command, f"out={tmp_path}", "log.also=[notepad]"]
    assert stopped(arguments, "classifier", 3) == 75
    assert main(arguments) == 0
    run = tmp_path / "a"
    assert len(written(run)) == 2 * (2 * 4 + 2) - 1  # steps and evaluations, of which SimSiam has one
    assert told(run) == written(run)
    notes = trackers.read(run)
    begun = [note for note in notes if "name" in note]
    whole = json.loads(json.dumps(config.to_dict(sections.parse(None, arguments))))
    assert [note["configuration"] for note in begun] == [whole, whole]
    assert [note["name"] for note in begun] == ["a", "a"]
    assert [note["identity"] for note in begun] == [None, "page 1"]
    assert [note["status"] for note in notes if "status" in note] == ["stopped", "done"]
    assert (run / "trackers" / "notepad.id").read_text() == "page 1\n"


def test_a_tracker_that_breaks_is_one_line_and_changes_nothing(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.setattr("dist_rmd.trackers.__path__", [str(tmp_path)])
    assert main([*command, f"out={tmp_path / 'runs'}", "stages=[classifier]", "log.also=[broken]"]) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if "has no effect" not in line] == [
        "warning: log.also: broken is left out from now on (ConnectionError: no network at all); metrics.jsonl has "
        "everything"
    ]
    run = tmp_path / "runs" / "a"
    assert len(records(run, "classifier")) == 2 * 4 + 2
    assert "broken is left out" in (run / "logs" / "rank0.log").read_text()
    assert (run / "classifier" / "artefact.pt").exists()


def test_a_run_that_fails_says_so(command, tmp_path):
    arguments = [*command, f"out={tmp_path}", "stages=[classifier]", "log.also=[notepad]", "task.lr=1e30"]
    assert main(arguments) == 70
    assert trackers.read(tmp_path / "a")[-1] == {"status": "failed"}


def test_one_of_two_ranks_tells_it(command, tmp_path):
    on_ranks(2, "tracked", *command, f"out={tmp_path}", "stages=[classifier]", "log.also=[notepad]")
    assert told(tmp_path / "a") == written(tmp_path / "a")
    assert [note["status"] for note in trackers.read(tmp_path / "a") if "status" in note] == ["done"]


def test_a_name_that_there_is_not_is_refused_before_anything_is_done(command, tmp_path, capsys):
    for words in (["--dry-run"], []):
        assert main([*words, *command, f"out={tmp_path / 'runs'}", "log.also=[notpad]"]) == 2
        said = "error: there is no 'notpad' in dist_rmd/trackers: did you mean 'notepad'?\n"
        assert capsys.readouterr().err == said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("library", ["wandb", "mlflow"])
def test_a_library_that_is_not_installed_is_refused_before_anything_is_done(
    library, command, tmp_path, capsys, monkeypatch
):
    for name in (library, f"dist_rmd.trackers.{library}"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("sys.meta_path", [_Absent(library), *sys.meta_path])
    assert main(["--dry-run", *command, f"out={tmp_path / 'runs'}", f"log.also=[{library}]"]) == 2
    assert capsys.readouterr().err == f"error: {library} is not installed: pip install 'dist_rmd[{library}]'\n"


class _Absent:
    """Finds that the library cannot be found."""

    def __init__(self, library):
        self.library = library

    def find_spec(self, name, path, target=None):
        if name == self.library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
