"""tools/browser with programs that are not there."""

import shutil
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "browser"


@pytest.fixture
def run(tmp_path):
    """run({program: script}) -> (what is said, what is called) where few other programs are."""

    def run(programs):
        for name in ("bash", "env", "mktemp", "tail"):
            (tmp_path / name).symlink_to(shutil.which(name))
        for name, script in programs.items():
            (tmp_path / name).write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"$CALLS"\n{script}\n')
            (tmp_path / name).chmod(0o755)
        calls = tmp_path / "calls"
        calls.touch()
        done = subprocess.run(
            [TOOL], env={"PATH": str(tmp_path), "CALLS": str(calls)}, capture_output=True, text=True, check=True
        )
        return done.stdout, calls.read_text().splitlines()

    return run


def test_a_browser_that_is_there_is_enough(run):
    assert run({"chromium": "", "id": "echo 0", "apt-get": ""}) == ("", [])


def test_root_gets_one(run):
    said, calls = run({"id": "echo 0", "apt-get": ""})
    assert said == "browser: installing chromium (1 minute)\n"
    assert calls == ["id -u", "apt-get update", "apt-get install -y --no-install-recommends chromium"]


def test_others_are_told_that_tests_are_skipped(run):
    said, calls = run({"id": "echo 1000", "apt-get": ""})
    assert "no Chromium here, so the tests of pages are skipped" in said
    assert calls == ["id -u"]


def test_where_it_cannot_be_had_the_tests_go_on_without(run):
    said, _ = run({"id": "echo 0", "apt-get": "echo 'E: no network'; exit 100"})
    assert "E: no network" in said
    assert "so the tests of pages are skipped" in said
