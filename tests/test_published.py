import csv
from importlib import resources
from pathlib import Path

import pytest

from dist_rmd.errors import ConfigError
from dist_rmd.published import published
from dist_rmd.sweep.grid import load


def lines(paper):
    return list(csv.DictReader((resources.files("dist_rmd.published") / f"{paper}.csv").read_text().splitlines()))


@pytest.mark.parametrize(("paper", "sizes"), [
    ("rmdnet", {"1": 180, "2": 16, "3": 12, "4": 18, "5": 12}),
    ("modul", {"1": 54, "2": 6, "3": 14, "4": 36, "5": 36}),
])  # fmt: skip
def test_every_printed_number_is_found_by_its_coordinates(paper, sizes):
    every = lines(paper)
    assert {table: sum(line["table"] == table for line in every) for table in sizes} == sizes
    assert len(every) == sum(sizes.values())
    for line in every:
        coordinates = {axis: text for axis, text in line.items() if axis not in ("table", "accuracy", "note")}
        assert published(paper, line["table"], coordinates) == (float(line["accuracy"]), line["note"])
        assert 1 <= float(line["accuracy"]) < 100


def test_table_4_of_modul_is_joined_by_the_names_in_its_grid():
    """Twice: the methods learn the set as it is, and divided; MODUL itself is always divided."""
    grid = load(Path(__file__).parent.parent / "configs" / "modul" / "table4.yaml", seeds=[0])
    joined = [{axis: grid.names.get(v, v) for axis, v in cell.coordinates.items()} for cell in grid.cells]
    assert all(published("modul", "4", coordinates) for coordinates in joined)
    for divided, methods in {"undivided": 16, "divided": 18}.items():
        methods_of = {(c["dataset"], c["method"]) for c in joined if c["set"] == divided}
        assert len(methods_of) == 2 * methods
    assert {line["method"] for line in lines("modul") if line["table"] == "4"} == {c["method"] for c in joined}


@pytest.mark.parametrize(("paper", "table"), [*(("rmdnet", n) for n in "12345"), *(("modul", n) for n in "1235")])
def test_the_grids_of_the_project_have_the_cells_of_the_papers_tables_and_one_row_that_is_named_otherwise(paper, table):
    grid = load(Path(__file__).parent.parent / "configs" / paper / f"table{table}.yaml", seeds=[0])
    assert grid.published == {"paper": paper, "table": table}
    printed = [cell for cell in grid.cells if cell.coordinates["method"] != "KD (T = 4)"]
    assert all(published(paper, table, cell.coordinates) for cell in printed)
    assert not any(published(paper, table, cell.coordinates) for cell in grid.cells if cell not in printed)
    assert len(printed) == sum(line["table"] == table for line in lines(paper))


def test_numbers_of_one_setting_agree_between_the_tables_of_rmdnet():
    """Tables 2 to 5 print cells of Table 1 again, and Table 5 those of 3 and 4; K = 0 is the loss alone."""

    def number(table, dataset, method, rate):
        return published("rmdnet", table, dict(dataset=dataset, method=method, noise="symmetric", rate=rate)).accuracy

    for dataset in ("cifar10", "cifar100"):
        for rate in ("0.1", "0.2"):
            assert number("2", dataset, "CE", rate) == number("1", dataset, "CE", rate)
            assert number("2", dataset, "CE+RGRL+RM", rate) == number("1", dataset, "CE+RMDNet", rate)
        for rate in ("0.2", "0.4"):
            assert number("5", dataset, "NCE_AGCE+RMDNet (K=0)", rate) == number("1", dataset, "NCE_AGCE", rate)
            for k in ("0", "0.001", "1"):
                method, elsewhere = f"NCE_AGCE+RMDNet (K={k})", {"cifar10": "4", "cifar100": "3"}[dataset]
                assert number("5", dataset, method, rate) == number(elsewhere, dataset, method, rate)


def test_the_gains_that_the_text_of_rmdnet_speaks_of():
    cell = dict(dataset="cifar10", noise="symmetric", rate="0.2")
    with_it, without = (published("rmdnet", "1", {**cell, "method": method}) for method in ("CE+RMDNet", "CE"))
    assert with_it.accuracy - without.accuracy == pytest.approx(4.47)


CELL = {"dataset": "cifar10", "method": "CE", "noise": "symmetric", "rate": "0.2"}


def test_coordinates_agree_as_numbers_and_unknown_ones_do_not_matter():
    assert published("rmdnet", "1", {**CELL, "rate": "0.20"}).accuracy == 80.73
    assert published("rmdnet", "1", {**CELL, "optimizer": "sgd"}).accuracy == 80.73
    assert published("modul", "2", {"method": "MODUL", "pair": "vgg16-vgg13"}).accuracy == 60.28
    assert published("rmdnet", "1", {**CELL, "rate": "0.3"}) is None
    assert published("rmdnet", "9", CELL) is None
    assert published("rmdnet", "1", {**CELL, "rate": "high"}) is None


def test_doubts_come_along():
    odd = {"dataset": "cifar10", "method": "NCE_AEL+RMDNet", "noise": "symmetric", "rate": "0.4"}
    assert published("rmdnet", "1", odd).note.startswith("doubtful")
    assert published("rmdnet", "1", CELL).note == ""


def test_what_cannot_be_told_apart_and_unknown_papers_are_refused():
    with pytest.raises(ConfigError, match=r"table 1 of rmdnet has 3 numbers .*: add an axis"):
        published("rmdnet", "1", {key: value for key, value in CELL.items() if key != "rate"})
    with pytest.raises(ConfigError, match="no published numbers of 'rmd': choose from modul, rmdnet"):
        published("rmd", "1", CELL)


def test_our_reading_of_cleot_is_a_note_beside_its_printed_numbers():
    notes = {line["method"]: line["note"] for line in lines("modul") if line["table"] == "4"}
    said = {method for method, note in notes.items() if "ours is a reading of its paper" in note}
    assert said == {"CLEOT without mixup", "CLEOT with mixup"}
