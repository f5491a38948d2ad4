import csv
import itertools
import json

import pytest
from support.sweep_folders import SweepFolder

from dist_rmd import report
from dist_rmd.errors import DataError
from dist_rmd.reports.curves import Line, Seed, curves, draw

AXES = {"method": ["CE", "CE+RMDNet"], "rate": ["0.2", "0.4"]}
STEPS = 10  # of an epoch, in SweepFolder


def log(run, fitted, every=4):
    """Write metrics.jsonl as training does: these shares by epoch, every so many steps and at an epoch's end."""
    records = []
    for epoch, (wrong, right) in enumerate(fitted):
        first = epoch * STEPS
        for step in [*range(first - first % every + every, first + STEPS, every), first + STEPS]:
            records.append({"stage": "rgrl", "epoch": epoch, "step": step, "train/loss": 1.0,
                            "train/fitted_wrong": wrong, "train/fitted_right": right})  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def sweep(tmp_path):
    """Two methods: one memorises.  At rate 0.2 nothing has begun but one run."""
    sweep = SweepFolder(tmp_path / "quickstart", AXES, seeds=(0, 1))
    for seed in (0, 1):
        sweep.finish("CE", "0.4", seed=seed, curve=[80.0, 90.0 + seed, 60.0])
        sweep.finish("CE+RMDNet", "0.4", seed=seed, curve=[70.0, 92.0, 95.0])
        log(sweep.run("CE", "0.4", seed=seed), [(0.1, 0.5), (0.5, 0.8), (0.9 + 0.1 * seed, 1.0)])
        log(sweep.run("CE+RMDNet", "0.4", seed=seed), [(0.1, 0.5), (0.1, 0.75), (0.2, 0.9)])
    sweep.run("CE", "0.2")
    return sweep.folder


def rows(folder):
    with open(folder / "figures" / "curves.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_is_one_line_for_each_method_over_its_seeds(sweep, capsys):
    assert report.main(["curves", str(sweep)]) == 0
    printed = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed[:4]]
    assert cells[0] == ["on", "method", "last epoch", "best epoch (by test)", "wrong labels fitted",
                        "right labels fitted", "seeds"]  # fmt: skip
    assert cells[2] == ["rate 0.4", "CE", "60.00 ± 0.00", "90.50 ± 0.71 at epoch 2, 2", "95.00 ± 7.07",
                        "100.00 ± 0.00", "2"]  # fmt: skip
    assert cells[3][2:] == ["95.00 ± 0.00", "95.00 ± 0.00 at epoch 3, 3", "20.00 ± 0.00", "90.00 ± 0.00", "2"]
    assert printed[-2:] == [str(sweep / "figures" / name) for name in ("curves.png", "curves.csv")]
    assert (sweep / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_every_point_is_in_the_csv(sweep):
    curves([sweep])
    found = rows(sweep)
    assert len(found) == 2 * 2 * 3
    assert found[2] == {"on": "rate 0.4", "method": "CE", "run": str(sweep / "CE-0.4-seed0"), "epoch": "3",
                        "test/top1": "60.0000", "train/fitted_wrong": "90.0000",
                        "train/fitted_right": "100.0000"}  # fmt: skip


def test_a_point_of_training_counts_for_its_epoch_by_its_steps(sweep):
    """Points at steps 4, 8 and 10, which are the means of 4, 4 and 2 steps."""
    points = [(4, 0.0), (8, 0.5), (10, 1.0)]
    run = sweep / "CE-0.4-seed0"
    lines = [{"stage": "rgrl", "step": step, "train/fitted_wrong": share} for step, share in points]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves([sweep])
    assert float(rows(sweep)[0]["train/fitted_wrong"]) == pytest.approx(100 * (4 * 0.0 + 4 * 0.5 + 2 * 1.0) / 10)


def test_what_nobody_knows_to_be_wrong_has_no_number(tmp_path):
    sweep = SweepFolder(tmp_path / "pets", {"method": ["CE"]}, seeds=(0,))
    sweep.finish("CE", curve=[80.0, 90.0])
    row = [cell.strip() for cell in curves([sweep.folder]).splitlines()[2].split("|")[1:-1]]
    assert row == ["", "CE", "90.00", "90.00 at epoch 2", "-", "-", "1"]


def test_a_line_ends_where_the_first_of_its_seeds_does():
    whole = Seed("a", {"test/top1": {1: 10.0, 2: 20.0, 3: 30.0}})
    begun = Seed("b", {"test/top1": {1: 12.0, 2: 22.0}})
    axis = draw({Line("digits", "CE"): [whole, begun]}).axes[0]
    assert [list(values) for values in axis.lines[0].get_data()] == [[1, 2], [11.0, 21.0]]


def test_accuracy_stands_alone_where_nobody_knows_which_labels_are_wrong():
    figure = draw({Line("pets", "CE"): [Seed("a", {"test/top1": {1: 10.0, 2: 20.0}})]})
    assert [axis.get_title() for axis in figure.axes] == ["Test accuracy (%)"]


def test_lines_are_told_apart_without_colour():
    """As many methods as a table of the paper has: no two lines share style and colour, nor do neighbours in grey."""
    names = [f"method {number}" for number in range(12)]
    figure = draw({Line("", name): [Seed("a", {"test/top1": {1: 1.0, 2: 2.0}})] for name in names})
    looks = [(line.get_color(), str(line.get_linestyle()), line._dash_pattern) for line in figure.axes[0].lines]
    assert len(set(map(str, looks))) == len(names)
    assert all(one[2] != other[2] for one, other in itertools.pairwise(looks))


def test_nothing_measured_is_one_line(tmp_path):
    folder = SweepFolder(tmp_path / "sweep", AXES).folder
    with pytest.raises(DataError, match="has measured test/top1 yet"):
        curves([folder])
