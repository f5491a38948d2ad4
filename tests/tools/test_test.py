"""tools/test in a made-up checkout, whose setup and Python only note how they are called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTE = '#!/usr/bin/env bash\necho "$(basename "$0") $*" >>"$NOTES"\n[[ -z ${FAIL-} || "$*" != *"$FAIL"* ]]\n'
SEVERAL = "--numprocesses=logical --maxprocesses=4 --dist=loadfile"
BEFORE = ["browser ", "python -m ruff check --config tools/ruff.toml .", "python -m mypy"]


@pytest.fixture
def run(tmp_path):
    """run(tool, *arguments) -> exit code and the list of calls."""
    checkout = tmp_path / "a checkout"
    for name in ("tools/setup", "tools/browser", ".venv/bin/python"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(NOTE)
        (checkout / name).chmod(0o755)
    for name in ("tools/test", ".ci/run"):
        (checkout / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)

    def call(tool, *arguments, fail=""):
        notes = tmp_path / "notes"
        notes.write_text("")
        env = os.environ | {"NOTES": str(notes), "FAIL": fail}
        done = subprocess.run([checkout / tool, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)
        return done.returncode, notes.read_text().splitlines()

    return call


def test_everything(run):
    assert run("tools/test") == (0, ["setup ", *BEFORE, f"python -m pytest --durations=10 {SEVERAL}"])


def test_ci_runs_the_quick_tests_and_those_of_jobs(run):
    code, notes = run(".ci/run")
    assert (code, notes) == (0, run("tools/test")[1] + run("tools/test", "--slurm")[1])


def test_all(run):
    tests = f"python -m pytest --durations=10 -m not slurm {SEVERAL}"
    assert run("tools/test", "--all") == (0, ["setup ", *BEFORE, tests])


@pytest.mark.parametrize(("options", "marks"), [(["--slurm"], "slurm and not slow"), (["--slurm", "--all"], "slurm")])
def test_slurm(run, options, marks):
    selected = f"python -m pytest --durations=10 -m {marks} -rs tests/launch"
    assert run("tools/test", *options) == (0, ["setup ", selected])


def test_a_selection_is_not_linted(run):
    assert run("tools/test", "tests/data", "-k", "views") == (
        0,
        ["setup ", "python -m pytest --durations=10 tests/data -k views"],
    )


@pytest.mark.parametrize(("fail", "calls"), [("ruff", 3), ("mypy", 4), ("pytest", 5)])
def test_a_failure_is_the_exit_code(run, fail, calls):
    code, notes = run("tools/test", fail=fail)
    assert code == 1
    assert len(notes) == calls


def test_help(run):
    assert run("tools/test", "-h") == (0, [])
