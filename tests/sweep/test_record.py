import json

from dist_rmd.config import sections
from dist_rmd.sweep import record


def written(folder, cells, overrides, seeds, configs=None, datasets=None):
    record.write(folder, cells(seeds=seeds), configs or {}, overrides, datasets or {})
    return json.loads((folder / "sweep.json").read_text())


def test_all_cells_and_what_differs_from_the_grid(tmp_path, cells, overrides):
    content = written(tmp_path / "small", cells, ["model.width=8", "data.path=elsewhere"], [0, 1])
    assert (content["grid"], content["title"]) == ("small", "Digits")
    assert (content["published"], content["table"]) == (None, None)
    assert content["axes"] == {"method": ["CE", "CE+RMDNet", "CE+RMDNet (K=2)"]}
    assert content["seeds"] == [0, 1]
    assert [cell["run"] for cell in content["cells"]][:3] == ["CE-seed0", "CE-seed1", "CE+RMDNet-seed0"]
    assert content["cells"][1] == {
        "run": "CE-seed1", "coordinates": {"method": "CE"}, "seed": 1, "changed": ["model.width: 64 -> 8"],
        "settings": {"simsiam.seed": 0, "stages": ["classifier"]},
    }  # fmt: skip


def test_other_images_are_a_change_and_another_folder_is_none(tmp_path, cells):
    overrides, folder = ["data.path=/a/b"], tmp_path / "small"
    content = written(folder, cells, overrides, [0], datasets={"/a/b": "digits"})
    assert content["cells"][0]["changed"] == ["dataset: cifar10 -> digits"]
    assert written(folder, cells, overrides, [0], datasets={"/a/b": "cifar10"})["cells"][0]["changed"] == []


def test_what_a_search_found_is_a_change_of_its_cell_alone(tmp_path, cells):
    cell = cells().cells[1]
    config = sections.parse(cell.file, cell.having({"relation.k": 0.5}).overrides())
    content = written(tmp_path / "small", cells, [], [0], {cell.place: config})
    assert [c["changed"] for c in content["cells"]] == [[], ["relation.k: 1.0 -> 0.5"], []]


def test_seeds_that_were_run_before_stay(tmp_path, cells):
    folder = tmp_path / "small"
    written(folder, cells, ["model.width=8"], [0])
    content = written(folder, cells, [], [4])
    assert content["seeds"] == [0, 4]
    assert {cell["run"] for cell in content["cells"]} >= {"CE-seed0", "CE-seed4"}
    assert all(cell["changed"] == [] for cell in content["cells"])
    assert record.read(tmp_path) == {}
