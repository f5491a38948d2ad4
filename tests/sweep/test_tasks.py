import fcntl
import json

import pytest
from support import small

from dist_rmd.errors import ConfigError, DataError
from dist_rmd.run import artefacts
from dist_rmd.stages.rgrl import RelationConfig
from dist_rmd.sweep.tasks import Planner, with_needs


@pytest.fixture
def planned(cells, overrides):
    """The tasks of a grid by name; more overrides may be given."""

    def planned(*more, ranks=1, seeds=(0, 1), **options):
        planner = Planner("small", (*overrides, *more), ranks)
        return {cell.name: planner.task(cell, cell.name) for cell in cells(seeds=list(seeds), **options).cells}

    return planned


def ended(task, code, reason="", keys=None):
    """Leave what a run leaves when it ends."""
    task.folder.path.mkdir(parents=True, exist_ok=True)
    content = {"status": "", "code": code, "reason": reason, "keys": keys or {}}
    task.folder.exit.write_text(json.dumps(content))


def test_one_teacher_serves_all_cells_and_seeds(planned, tmp_path):
    tasks = planned()
    teachers = {task.needs for task in tasks.values() if task.needs}
    assert len(teachers) == 1
    (teacher,) = teachers
    assert tasks["CE-seed0"].needs is None
    assert (teacher.config.stages, list(teacher.keys)) == (("simsiam",), ["simsiam"])
    assert teacher.keys["simsiam"] == tasks["CE+RMDNet_K=2-seed1"].keys["simsiam"]
    assert teacher.name == f"simsiam-{teacher.keys['simsiam'][:8]}"
    assert teacher.folder.path == tmp_path / "small" / teacher.name
    assert with_needs(tasks.values()) == [
        tasks["CE-seed0"], tasks["CE-seed1"], teacher, *[task for task in tasks.values() if task.needs],
    ]  # fmt: skip


def test_cells_with_other_teachers_do_not_share_one(planned):
    tasks = planned("simsiam.seed=null")
    assert len({task.needs for task in tasks.values() if task.needs}) == 2  # one for each seed


def test_what_is_needed_may_need_something_itself(cells, overrides):
    """One teacher for all, one division for each set of labels, which two students share."""
    text = """
config: base.yaml
set: {teacher.seed: 0, division.seed: 0, noise.rate: 0.3}
axes:
  method:
    VKD: {stages: [teacher, vkd]}
    MODUL: {stages: [teacher, division, modul]}
    No Mixup: {stages: [teacher, division, modul], modul.mixup: 0}
"""
    planner = Planner("small", tuple(overrides), 1)
    tasks = {cell.name: planner.task(cell, cell.name) for cell in cells(text, seeds=[0, 1]).cells}
    first, second = (tasks[f"MODUL-seed{seed}"].needs for seed in (0, 1))
    teacher = tasks["VKD-seed0"].needs
    assert first.needs is second.needs is tasks["VKD-seed1"].needs is teacher
    assert tasks["No_Mixup-seed1"].needs is second
    assert [task.config.stages for task in (teacher, first)] == [("teacher",), ("teacher", "division")]
    assert with_needs(tasks.values()) == [
        teacher, tasks["VKD-seed0"], tasks["VKD-seed1"], first, tasks["MODUL-seed0"], second, tasks["MODUL-seed1"],
        tasks["No_Mixup-seed0"], tasks["No_Mixup-seed1"],
    ]  # fmt: skip


def test_a_grid_may_name_its_folder(cells):
    assert cells().folder == "small"
    assert cells("folder: elsewhere\n" + "title: x\nconfig: base.yaml\naxes: {method: {CE: {}}}").folder == "elsewhere"


def test_overrides_win_and_the_sweep_names_the_runs(planned, tmp_path):
    task = planned("relation.k=7")["CE+RMDNet_K=2-seed1"]
    assert (task.config.section(RelationConfig).k, task.config.seed, task.config.noise.seed) == (7, 1, 1)
    assert task.folder.path == tmp_path / "small" / "CE+RMDNet_K=2-seed1"
    assert task.log == tmp_path / "small" / "logs" / "CE+RMDNet_K=2-seed1.log"


def test_keys_are_those_of_as_many_ranks_as_there_will_be(planned):
    one, two = (planned("dist.sync_batchnorm=false", ranks=ranks)["CE-seed0"].keys for ranks in (1, 2))
    assert one != two
    assert planned(ranks=2)["CE-seed0"].keys == one


def test_states(planned):
    task = planned()["CE-seed0"]
    assert task.state == "open"
    ended(task, 75)
    assert (task.state, task.stopped) == ("open", True)
    ended(task, 70, "classifier: train/loss is nan")
    assert (task.state, task.reason, task.stopped) == ("diverged", "classifier: train/loss is nan", False)
    ended(task, 65, "broken")
    assert (task.state, task.reason) == ("failed", "broken")
    with open(task.folder.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert task.state == "busy"
    ended(task, 0, keys=dict(task.keys))
    assert task.state == "open"  # what it left is gone
    small.artefact(task.folder.artefact("classifier"), task.keys["classifier"])
    assert task.state == "done"
    ended(task, 0, keys={"classifier": "of other settings"})
    assert task.state == "open"


def test_a_teacher_is_done_wherever_it_was_trained(planned, tmp_path):
    task = planned()["CE+RMDNet-seed0"]
    assert task.needs.state == "open"
    assert task.reason == f"it starts from {task.needs.name}"
    shared = artefacts.shared_path(tmp_path, "simsiam", task.keys["simsiam"])
    small.artefact(shared, task.keys["simsiam"])
    assert task.needs.state == "done"
    shared.write_bytes(shared.read_bytes()[:100])
    assert task.needs.state == "open"  # it was cut
    small.artefact(shared, task.keys["simsiam"])
    assert task.needs.state == "done"
    assert task.state == "open"


def test_the_reason_of_a_run_that_was_refused_is_in_its_log(planned):
    task = planned()["CE-seed0"]
    assert str(task.log) in task.reason
    task.log.parent.mkdir(parents=True)
    task.log.write_text("a line\nerror: no such GPU\n")
    assert task.reason == "no such GPU"


def test_mistakes_name_the_cell(planned, overrides):
    with pytest.raises(ConfigError, match=r"CE-seed0: unknown key 'task\.rl'"):
        planned("task.rl=1")
    with pytest.raises(ConfigError, match=r"CE-seed0: task\.batch_size=1"):
        planned("task.batch_size=1")
    with pytest.raises(DataError, match=r"CE-seed0: .*no such dataset"):
        planned("data.path=nowhere")
