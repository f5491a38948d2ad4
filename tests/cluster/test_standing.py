import fcntl
import json
import os

import pytest

from dist_rmd.cluster.arrays import Queue
from dist_rmd.cluster.standing import counts, standings


@pytest.fixture
def stand(tasks, tmp_path, squeue, monkeypatch):
    """A function that says how the tasks stand: name -> state, text.  `jobs` have been submitted, `queue` remains."""

    def stand(jobs, queue):
        (tmp_path / "small" / "slurm").mkdir(parents=True, exist_ok=True)
        (tmp_path / "small" / "slurm" / "jobs.json").write_text(json.dumps({"device": "cpu", "jobs": jobs}))
        squeue(queue)
        found = standings(list(tasks.values()), Queue(tmp_path / "small"))
        return {one.name: (one.state, one.text) for one in found}

    monkeypatch.setenv("SLURM_CONF", os.devnull)  # there is no SLURM that knows any job
    return stand


def test_how_runs_stand_on_disk_and_in_the_queue(tasks, stand, ended):
    ended(tasks["CE-seed0"], 0)
    ended(tasks["CE-seed1"], 70, "loss not finite")
    ended(tasks["VKD-seed0"], 65, "no such image")
    vkd, modul, last = (tasks[name] for name in ("VKD-seed1", "MODUL-seed0", "MODUL-seed1"))
    vkd.folder.path.mkdir(parents=True)
    vkd.folder.status.write_text(json.dumps({"stage": "vkd", "epoch": 2, "step": 7, "steps": 10}))
    with open(vkd.folder.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = stand({modul.name: "5_0", last.name: "5_1"}, "5_0 PENDING (Priority)\n5_1 RUNNING (None)")
    assert found == {
        "CE-seed0": ("done", ""),
        "CE-seed1": ("diverged", "loss not finite"),
        "VKD-seed0": ("failed", f"it starts from {vkd.needs.name}"),
        "VKD-seed1": ("running", "vkd, epoch 3, 70 %"),
        "MODUL-seed0": ("pending", "PENDING (Priority)"),
        "MODUL-seed1": ("running", "RUNNING"),
    }


def test_a_job_that_ended_without_a_word_is_lost(tasks, stand, ended, tmp_path):
    state, text = stand({"CE-seed0": "5"}, "")["CE-seed0"]
    assert state == "lost"
    assert text.endswith(f"see {tmp_path}/small/slurm/5_0_log.out")
    ended(tasks["CE-seed0"], 75)
    assert stand({"CE-seed0": "5"}, "")["CE-seed0"] == ("stopped", "")


def test_a_cell_without_its_teacher_has_not_begun(tasks, stand):
    assert stand({"VKD-seed0": "5"}, "")["VKD-seed0"] == ("open", f"it starts from {tasks['VKD-seed0'].needs.name}")
    assert stand({}, "")["VKD-seed0"] == ("open", "")


def test_counts(tasks, tmp_path, ended):
    ended(tasks["CE-seed0"], 0)
    assert counts(standings(list(tasks.values()), Queue(tmp_path / "small"))) == "1 done, 5 open"
