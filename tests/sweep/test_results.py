import json
import math

import pytest
from support.sweep_folders import SweepFolder

from dist_rmd.errors import DataError
from dist_rmd.sweep.results import read

AXES = {"method": ["CE", "GCE"], "rate": ["0.2", "0.4"]}


@pytest.fixture
def made(tmp_path):
    """made(name, ...) -> a sweep folder of AXES and seeds 0 and 1."""

    def made(name="table1", axes=AXES, seeds=(0, 1), **plan):
        return SweepFolder(tmp_path / name, axes, seeds, **plan)

    return made


def outcomes(sweep, *at):
    return list(sweep.cells[at].outcomes.values())


def test_last_and_best_epoch_of_finished_runs(made):
    folder = made()
    folder.finish("CE", "0.2", seed=0, curve=[50.0, 80.0, 70.0])
    first, second = outcomes(read([folder.folder]), "CE", "0.2")
    assert (first.status, first.last, first.best, first.best_epoch) == ("finished", 70.0, 80.0, 2)
    assert not first.collapsed
    assert not first.forced
    assert (second.status, math.isnan(second.last)) == ("not begun", True)


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        (70, "loss is nan", "diverged"),
        (1, "CUDA error", "failed"),
        (75, "stopped by SIGTERM", "unfinished"),
    ],
)
def test_runs_without_a_result(made, code, reason, status):
    folder = made()
    folder.fail("CE", "0.2", code=code, reason=reason)
    outcome, _ = outcomes(read([folder.folder]), "CE", "0.2")
    assert (outcome.status, outcome.reason) == (status, "" if status == "unfinished" else reason)


def test_a_run_that_goes_on_or_was_killed_is_unfinished(made):
    folder = made()
    folder.run("CE", "0.2")
    assert outcomes(read([folder.folder]), "CE", "0.2")[0].status == "unfinished"


def test_collapsed_and_forced_runs_are_told(made):
    folder = made()
    folder.finish("CE", "0.2", seed=0, curve=[60.0, 10.0], predicted_classes=1)
    folder.finish("CE", "0.2", seed=1, curve=[60.0, 10.0], forced=["rgrl"])
    first, second = outcomes(read([folder.folder]), "CE", "0.2")
    assert (first.collapsed, first.forced, second.collapsed, second.forced) == (True, False, False, True)


def test_a_sweep_is_named_by_its_folder_a_run_or_any_file_in_it(made):
    folder = made()
    folder.finish("CE", "0.2", curve=[50.0])
    paths = [folder.folder, folder.folder / "sweep.json", folder.folder / "CE-0.2-seed0"]
    assert read(paths).folders == (folder.folder,)
    assert read(paths[2:]).folders == (folder.folder,)


def test_folders_of_one_grid_are_pooled(made):
    """Two machines: one was told to do the first method, the other the second, and a further seed of the first."""
    one = made("a/table1", {"method": ["CE"], "rate": ["0.2", "0.4"]})
    other = made("b/table1", {"method": ["GCE", "CE"], "rate": ["0.2", "0.4"]}, seeds=(1, 2))
    one.finish("CE", "0.2", seed=0, curve=[50.0])
    one.fail("CE", "0.2", seed=1, code=1, reason="disk full")
    other.finish("CE", "0.2", seed=1, curve=[51.0])
    other.finish("GCE", "0.4", seed=2, curve=[70.0])
    sweep = read([one.folder, other.folder])
    assert sweep.axes == {"method": ("CE", "GCE"), "rate": ("0.2", "0.4")}
    assert {seed: o.last for seed, o in sweep.cells["CE", "0.2"].finished.items()} == {0: 50.0, 1: 51.0}
    assert list(sweep.cells["CE", "0.2"].outcomes) == [0, 1, 2]
    assert list(sweep.cells["GCE", "0.4"].finished) == [2]
    assert len(sweep.outcomes) == 10


def test_a_run_finished_twice_is_refused(made):
    one, other = made("a/table1"), made("b/table1")
    for folder in (one, other):
        folder.finish("CE", "0.2", curve=[50.0])
    with pytest.raises(DataError) as error:
        read([one.folder, other.folder])
    message = str(error.value)
    assert f"{one.folder}/CE-0.2-seed0 and {other.folder}/CE-0.2-seed0 are the same cell and seed" in message
    assert "\n" not in message


def test_other_grids_and_other_recipes_are_not_pooled(made):
    plain, other = made("a"), made("b", grid="table2")
    with pytest.raises(DataError, match=r"different grids, table1 \(method x rate\) and table2"):
        read([plain.folder, other.folder])
    with pytest.raises(DataError, match=r"table1 \(method x rate\) and table1 \(method\)"):
        read([plain.folder, made("c", {"method": ["CE"]}).folder])
    narrow = made("d", changed=["model.width: 64 -> 16"])
    plain.run("CE", "0.2", seed=0)
    narrow.finish("CE", "0.2", seed=1, curve=[50.0])
    with pytest.raises(
        DataError, match=r"a and .*d hold CE 0.2 under different recipes \(the grid's own \| model.width: 64 -> 16\)"
    ):
        read([plain.folder, narrow.folder])


def test_the_recipe_is_that_of_the_runs_that_were_begun(made):
    """One machine searched K for the cell that it ran; the other one only knows of the cell."""
    searched, plain = made("a", changed=["relation.k: 1 -> 0.5"]), made("b")
    searched.finish("CE", "0.2", seed=1, curve=[50.0])
    plain.finish("GCE", "0.2", curve=[60.0])
    for folders in ([searched.folder, plain.folder], [plain.folder, searched.folder]):
        cells = read(folders).cells
        assert cells["CE", "0.2"].changed == ("relation.k: 1 -> 0.5",)
        assert cells["GCE", "0.2"].changed == ()


def test_folders_without_a_sweep(tmp_path, made):
    with pytest.raises(DataError, match="no sweep here"):
        read([tmp_path / "absent"])
    folder = made()
    (folder.folder / "sweep.json").write_text("{")
    with pytest.raises(DataError, match=r"sweep\.json: not readable"):
        read([folder.folder])
    (folder.folder / "sweep.json").write_text(json.dumps({**folder.plan, "axes": AXES, "cells": []}))
    with pytest.raises(DataError, match="no cells in it"):
        read([folder.folder])
    (folder.folder / "sweep.json").write_text("{}")
    with pytest.raises(DataError, match="no axes, cells, grid, published, table, title in it"):
        read([folder.folder])


def test_a_last_stage_that_measures_something_else_is_named(made):
    folder = made()
    folder.finish("CE", "0.2", curve=[])
    with pytest.raises(DataError, match="its last stage, rgrl, has not measured test/top1"):
        read([folder.folder])


def test_a_folder_that_holds_another_run_gives_no_number(made):
    folder = made(axes={"method": ["CE", "GCE"]}, seeds=[0])
    for cell, loss in zip(folder.cells, ("ce", "gce"), strict=True):
        recipe = {"loss.options": {"q": 0.7}, "task.lr": 5e-5}
        cell["settings"] = {"stages": ["simsiam", "rgrl"], "loss.name": loss, **recipe}
    folder.write()
    for method in ("CE", "GCE"):
        folder.finish(method, curve=[50.0])
        config = "stages: [simsiam, rgrl]\nseed: 0\nloss: {name: ce, options: {q: 0.7}}\ntask: {lr: 5.0e-05}\n"
        (folder.folder / f"{method}-seed0" / "config.yaml").write_text(config)
    right, wrong = (outcomes(read([folder.folder]), method)[0] for method in ("CE", "GCE"))
    assert (right.status, right.last) == ("finished", 50.0)
    assert (wrong.status, wrong.reason) == ("failed", "its folder holds another run (loss.name is ce, not gce)")
    assert math.isnan(wrong.last)
