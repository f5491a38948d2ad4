"""What SLURM does with arrays is tested by whole sweeps, in tests/launch/test_sweep.py."""

import json

import pytest

from dist_rmd.cluster.arrays import Queue, arrays
from dist_rmd.errors import UserError
from dist_rmd.sweep.tasks import with_needs


def laid_out(tasks, pack):
    return [
        (array.name, [[task.name for task in bundle] for bundle in array.bundles], array.needs())
        for array in arrays("small", with_needs(tasks.values()), pack)
    ]


def test_what_others_start_from_has_arrays_of_its_own_before_them(tasks):
    teacher = tasks["VKD-seed0"].needs.name
    divisions = [tasks[f"MODUL-seed{seed}"].needs.name for seed in (0, 1)]
    assert laid_out(tasks, 1) == [
        ("small-teacher", [[teacher]], []),
        ("small", [["CE-seed0"], ["CE-seed1"]], []),
        ("small-division", [[name] for name in divisions], [teacher]),
        ("small", [["VKD-seed0"], ["VKD-seed1"]], [teacher]),
        ("small", [["MODUL-seed0"], ["MODUL-seed1"]], sorted(divisions)),
    ]


def test_several_tasks_share_an_element(tasks):
    del tasks["CE-seed1"]
    bundles = [bundles for name, bundles, _ in laid_out(tasks, 2) if name == "small"]
    assert bundles == [[["CE-seed0"]], [["VKD-seed0", "VKD-seed1"]], [["MODUL-seed0", "MODUL-seed1"]]]


def test_only_jobs_that_slurm_still_has_are_in_the_queue(tmp_path, squeue):
    assert Queue(tmp_path).states() == {}  # no question where nothing was submitted
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "jobs.json").write_text(
        json.dumps({"device": "cpu", "jobs": {"CE-seed0": "7_0", "CE-seed1": "7_1", "VKD-seed0": "8"}})
    )
    squeue("7_1 RUNNING (None)\n8 PENDING (Dependency)\n9 RUNNING (None)")
    assert Queue(tmp_path).states() == {"CE-seed1": "RUNNING", "VKD-seed0": "PENDING (Dependency)"}
    squeue("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", code=1)
    with pytest.raises(UserError, match="squeue: slurm_load_jobs error: Unable to contact"):
        Queue(tmp_path).states()
