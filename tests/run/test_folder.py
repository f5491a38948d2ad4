import json
from pathlib import Path

import pytest

from dist_rmd.config import sections
from dist_rmd.run.folder import Exit, RunFolder, Status


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "a")


def test_it_is_named_by_the_configuration():
    folder = RunFolder.of(sections.parse(None, ["out=there", "name=a/b"]))
    assert (folder.path, str(folder), Path(folder)) == (Path("there/a/b"), "there/a/b", Path("there/a/b"))


def test_an_outcome_is_written_for_programs_and_read_back(folder):
    ended = Exit(65, "bad data", rank=1, stage="rgrl", step=7, facts={"samples": [3, 4]})
    folder.write_exit(ended)
    assert folder.read_exit() == ended
    content = json.loads(folder.exit.read_text())
    assert content.pop("ended") == ended.ended
    assert content == {
        "status": "failed", "code": 65, "reason": "bad data", "rank": 1, "stage": "rgrl", "step": 7, "samples": [3, 4],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "status", "stopped", "diverged"),
    [(0, "done", False, False), (75, "stopped", True, False), (1, "failed", False, False), (70, "failed", False, True)],
)
def test_the_status_says_whether_to_start_again(folder, code, status, stopped, diverged):
    folder.write_exit(Exit(code))
    found = folder.read_exit()
    assert (found.status, found.is_stopped, found.is_diverged) == (status, stopped, diverged)
    assert json.loads(folder.exit.read_text())["status"] == status


def test_the_first_failure_is_the_cause(folder):
    folder.write_exit(Exit(1, "KeyError('a bug')", rank=1))
    folder.write_exit(Exit(1, "rank 1 of 2 does not answer", rank=0))
    assert (folder.read_exit().reason, folder.read_exit().rank) == ("KeyError('a bug')", 1)


def test_a_folder_that_cannot_be_written_does_not_hide_the_error_that_is_reported(folder):
    folder.path.write_text("a file in the way")
    folder.write_exit(Exit(73, "cannot create"))
    assert folder.read_exit() is None


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"status": "failed"}'])
def test_what_nobody_can_read_is_no_outcome(folder, content):
    folder.path.mkdir()
    folder.exit.write_text(content)
    assert folder.read_exit() is None


def test_outcomes_of_other_versions_are_read(folder):
    folder.path.mkdir()
    folder.exit.write_text('{"code": 75, "status": "stopped"}')
    assert folder.read_exit() == Exit(75, ended="")
    folder.exit.write_text('{"code": 0, "reason": "done", "keys": {"rgrl": "0a"}, "forced": ["rgrl"], "mood": "good"}')
    assert folder.read_exit() == Exit(
        0, "done", ended="", keys={"rgrl": "0a"}, forced=("rgrl",), facts={"mood": "good"}
    )


def test_how_far_a_run_is(folder):
    assert folder.read_status() is None
    status = Status("rgrl", epoch=2, step=7, steps=10, seconds_left=60)
    folder.write_status(status)
    assert folder.read_status() == status
    folder.status.write_text('{"stage": "rgrl", "epoch": 2, "step": 7, "steps": 10, "mood": "good"}')
    assert (folder.read_status().step, folder.read_status().seconds_left) == (7, 0)
    folder.status.write_text('{"stage": "rgrl"}')
    assert folder.read_status() is None
