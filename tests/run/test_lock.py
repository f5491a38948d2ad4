import fcntl
import json
import os
import platform
import subprocess
import sys

import pytest
from support import disks
from support.torchrun import ROOT

from dist_rmd.errors import CannotCreate
from dist_rmd.run.folder import RunFolder
from dist_rmd.run.lock import is_locked, run_lock

HOLDER = """
import sys, time
from pathlib import Path
from dist_rmd.run.folder import RunFolder
from dist_rmd.run.lock import run_lock
with run_lock(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_second_is_refused_and_told_who_the_first_is(holder, tmp_path):
    written = (tmp_path / "run.lock").read_text()
    with pytest.raises(CannotCreate) as caught, run_lock(RunFolder(tmp_path)):
        pass
    assert caught.value.code == 73
    assert "another run is writing here" in str(caught.value)
    assert f'"pid": {holder.pid}' in str(caught.value)
    assert f'"host": "{platform.node()}"' in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run.lock").read_text() == written


def test_the_lock_of_a_killed_run_is_free(holder, tmp_path):
    assert is_locked(RunFolder(tmp_path))
    holder.kill()
    holder.wait()
    assert not is_locked(RunFolder(tmp_path))
    assert not is_locked(RunFolder(tmp_path / "nowhere"))
    with run_lock(RunFolder(tmp_path)):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_it_is_free_after_the_end_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="x"), run_lock(RunFolder(tmp_path / "new")):
            raise ValueError("x")
    with run_lock(RunFolder(tmp_path / "new")):
        pass


def test_the_job_of_a_cluster_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    folder = RunFolder(tmp_path)
    with run_lock(folder), pytest.raises(CannotCreate, match='"job": "4711"'), run_lock(folder):
        pass


@pytest.mark.parametrize("in_the_way", ["a", "a/run.lock/x"])
def test_a_folder_that_cannot_be_made(tmp_path, in_the_way):
    (tmp_path / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / in_the_way).write_text("")
    with pytest.raises(CannotCreate, match=r"a/run\.lock: cannot be created"), run_lock(RunFolder(tmp_path / "a")):
        pass


def test_a_read_only_disk(tmp_path):
    with disks.tmpfs(tmp_path / "disk", "1m") as disk:
        disks.make_read_only(disk)
        with pytest.raises(CannotCreate, match="Read-only file system"), run_lock(RunFolder(disk / "a")):
            pass


def test_without_locks_a_run_goes_on_with_a_warning(tmp_path, monkeypatch):
    """As on some network file systems."""

    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match=r"no locks here \(No locks available\)"), run_lock(RunFolder(tmp_path)):
        pass
