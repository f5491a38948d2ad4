import csv
import json
import re
import statistics

import pytest
from support import small
from support.sweep_folders import SweepFolder

from dist_rmd import report
from dist_rmd.errors import ConfigError, DataError, WriteFailed
from dist_rmd.pipeline.command import main as train
from dist_rmd.reports.table import draw, table
from dist_rmd.sweep.comparison import Comparison
from dist_rmd.sweep.results import read

AXES = {"dataset": ["cifar10", "cifar100"], "method": ["CE", "CE+RMDNet"], "noise": ["symmetric"],
        "rate": ["0.2", "0.4"]}  # fmt: skip
PLAN = {"published": "rmdnet", "table": "1", "compare": {"CE+RMDNet": "CE"}, "title": "Accuracy (RMDNet, Table 1)"}


@pytest.fixture
def folder(tmp_path):
    """Two of the eight cells of AXES are complete, one has lost a seed, others have gone wrong."""
    folder = SweepFolder(tmp_path / "table1", AXES, **PLAN)
    at = ("symmetric", "0.4")
    for seed, without, with_it in ((0, 62.0, 70.0), (1, 63.0, 73.0), (2, 64.0, 73.0)):
        folder.finish("cifar10", "CE", *at, seed=seed, curve=[70.0 + seed, without])
        folder.finish("cifar10", "CE+RMDNet", *at, seed=seed, curve=[75.0, with_it])
    folder.finish("cifar100", "CE", *at, seed=0, curve=[40.0])
    folder.fail("cifar100", "CE", *at, seed=1, code=70, reason="train/loss is nan at step 12")
    folder.finish("cifar100", "CE", *at, seed=2, curve=[42.0])
    folder.fail("cifar100", "CE+RMDNet", *at, seed=0, code=1, reason="CUDA error")
    folder.run("cifar100", "CE+RMDNet", *at, seed=1)
    folder.finish("cifar10", "CE+RMDNet", "symmetric", "0.2", seed=1, curve=[10.0], predicted_classes=1)
    folder.finish("cifar100", "CE+RMDNet", "symmetric", "0.2", seed=1, curve=[30.0], forced=["rgrl"])
    return folder


def rows(page):
    """Heading of the section -> title of the block -> (method, kind) -> texts."""
    found, section, block, method = {}, "", "", ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("**"):
            block, method = line.strip("*"), ""
        elif line.startswith("| ") and not re.match(r"\| (method|---)", line):
            texts = [text.strip() for text in line.strip("|").split("|")]
            method = texts[0] or method
            key = (method, texts[1]) if section == "Last epoch" else method
            found.setdefault(section, {}).setdefault(block, {})[key] = texts[2 if section == "Last epoch" else 1 :]
    return found


def test_ours_beside_the_published_numbers(folder):
    last = rows(table([folder.folder]))["Last epoch"]["cifar10, symmetric"]
    assert last == {
        ("CE", "ours"): ["—", "63.00 ± 1.00"],
        ("CE", "published"): ["80.73", "62.12"],
        ("CE", "difference"): ["", "+0.88"],
        ("CE+RMDNet", "ours"): ["10.00† (1/3)", "72.00 ± 1.73"],
        ("CE+RMDNet", "published"): ["85.20", "71.00"],
        ("CE+RMDNet", "difference"): ["-75.20", "+1.00"],
        ("CE+RMDNet", "gain over CE"): ["", "+9.00 ± 1.00"],  # 8, 10 and 9 with one seed each
        ("CE+RMDNet", "published gain"): ["+4.47", "+8.88"],
    }


def test_gaps_are_marked_and_nothing_failed_is_averaged_in(folder):
    last = rows(table([folder.folder]))["Last epoch"]["cifar100, symmetric"]
    assert last["CE", "ours"] == ["—", "41.00 ± 1.41 (2/3, 1 diverged)"]
    assert last["CE+RMDNet", "ours"] == ["30.00‡ (1/3)", "failed (1/3)"]
    assert last["CE+RMDNet", "difference"] == ["-33.48", ""]
    assert last["CE+RMDNet", "gain over CE"] == ["", ""]
    assert last["CE+RMDNet", "published"] == ["63.48", "52.47"]


def test_the_best_epoch_stands_apart_and_is_named_as_such(folder):
    sections = rows(table([folder.folder]))
    best = sections["Best epoch, chosen by looking at the test images"]
    assert best["cifar10, symmetric"] == {
        "CE": ["—", "71.00 ± 1.00"],
        "CE+RMDNet": ["10.00† (1/3)", "75.00 ± 0.00"],
    }


def test_the_head_of_the_page_says_what_it_is_made_of(folder):
    page = table([folder.folder])
    assert page.startswith("# Accuracy (RMDNet, Table 1)\n")
    assert "- 10 of 24 runs finished, 1 diverged, 1 failed, 1 unfinished, 11 not begun.\n" in page
    assert "- Recipe: the grid's own, unchanged.\n" in page
    assert (
        "- Cells with a gain over the baseline, last epoch: 1 of 1, +9.00 on average "
        "(published, of these cells: 1 of 1, +8.88 on average).\n" in page
    )
    assert "- †: collapsed, one class is predicted for all test images.\n" in page
    assert "- ‡: forced to go on under another configuration.\n" in page
    assert f"- {folder.folder}/cifar100-CE-symmetric-0.4-seed1: diverged: train/loss is nan at step 12\n" in page
    assert f"- {folder.folder}/cifar100-CE+RMDNet-symmetric-0.4-seed0: failed: CUDA error\n" in page
    assert f"- {folder.folder}/cifar100-CE+RMDNet-symmetric-0.4-seed1: unfinished\n" in page
    assert f"- {folder.folder}/cifar10-CE+RMDNet-symmetric-0.2-seed1: collapsed\n" in page


def rows_of(markdown):
    """The rows of a table, without blanks."""
    return [line.replace(" ", "") for line in markdown.splitlines() if line.startswith("|") and "---" not in line]


def test_the_epoch_that_held_out_labels_choose(tmp_path):
    folder = SweepFolder(tmp_path, {"method": ["CE", "GCE", "SCE"]}, seeds=[0, 1], compare={"GCE": "CE", "SCE": "CE"})
    for seed in (0, 1):
        folder.finish("CE", seed=seed, curve=[70.0, 60.0, 50.0], held_out=[31.0, 32.0, 29.0])
        folder.finish("GCE", seed=seed, curve=[80.0, 81.0 + seed], held_out=[30.0, 30.5])
        folder.finish("SCE", seed=seed, curve=[85.0])
    assert "Seconds" not in table([folder.folder])
    run = folder.folder / "GCE-seed1"
    points = [("simsiam", 40.0), ("rgrl", 5.0), ("rgrl", 6.5)]
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"stage": stage, "perf/train_s": spent}) + "\n" for stage, spent in points)
    )
    page = table([folder.folder])
    chosen = page[page.index("## Epoch chosen on held-out labels") : page.index("## Seconds")]
    ours = ["|CE|ours|60.00±0.00|", "|GCE|ours|81.50±0.71|", "||gainoverCE|+21.50±0.71|"]
    assert rows_of(chosen) == ["|method||accuracy|", *ours]
    assert rows_of(page[page.index("## Seconds") :]) == ["|method|seconds|", "|CE|—|", "|GCE|12|", "|SCE|—|"]
    with open(folder.folder / "table.csv") as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    assert (lines["GCE"]["held_out_mean"], lines["GCE"]["seconds"]) == ("81.5000", "11.5000")
    assert (lines["SCE"]["held_out_mean"], lines["SCE"]["seconds"]) == ("", "")


def test_a_line_for_each_cell(tmp_path, capsys):
    axes = {"method": ["CE", "GCE", "SCE"], "rate": ["0.2", "0.4"]}
    folder = SweepFolder(tmp_path, axes, seeds=[0, 1], compare={"GCE": "CE"})
    for seed in (0, 1):
        folder.finish("CE", "0.4", seed=seed, curve=[70.0, 60.0])
        folder.finish("GCE", "0.4", seed=seed, curve=[80.0, 81.0 + seed, 80.0])
        run, fitted = tmp_path / f"GCE-0.4-seed{seed}", (0.5, 0.1, 0.2)
        points = [
            {"stage": "rgrl", "step": step, "train/fitted_wrong": share, "perf/train_s": 3, "perf/cpu_s": 2 + seed}
            for step, share in zip((10, 25, 30), fitted, strict=True)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    assert report.main(["table", str(tmp_path), "--lines", "true"]) == 0
    page = capsys.readouterr().out
    assert (tmp_path / "lines.md").read_text() in page
    assert not (tmp_path / "table.md").exists()
    assert rows_of(page) == [
        "|method|rate|lastepoch|gain|bestepoch(bytestimages)|wronglabelsfitted(%)|seconds|CPUseconds|seeds|",
        "|CE|0.2|—||||||0|",
        "|CE|0.4|60.00±0.00||70.00±0.00atepoch1,1||||2|",
        "|GCE|0.2|—||||||0|",
        # The points at steps 25 and 30 count for the last epoch, by the 15 and 5 steps that they are means of.
        "|GCE|0.4|80.00±0.00|+20.00±0.00overCE|81.50±0.71atepoch2,2|12.5±0.0|9±0|8±2|2|",
        "|SCE|0.2|—||||||0|",
        "|SCE|0.4|—||||||0|",
    ]


def test_accuracies_on_held_out_labels(tmp_path):
    folder = SweepFolder(tmp_path, {"method": ["CE", "GCE"]}, seeds=[0])
    folder.finish("CE", curve=[70.0, 60.0], held_out=[31.0, 29.0])
    page = table([folder.folder], tag="val/top1")
    assert rows(page)["Last epoch"][""][("CE", "29.00")] == []
    assert "- Accuracy on the noisy labels of held-out images in percent" in page
    assert "## Best epoch, chosen by looking at the held-out images\n" in page
    folder.finish("GCE", curve=[70.0])
    with pytest.raises(DataError, match=r"has not measured val/top1: .* \(data\.holdout holds labels out\)"):
        table([folder.folder], tag="val/top1")
    with pytest.raises(ConfigError, match=r"--tag loss: expected test/top1 or val/top1"):
        table([folder.folder], tag="loss")


def test_a_small_recipe_is_not_taken_for_a_replication(tmp_path):
    folder = SweepFolder(tmp_path / "table1", AXES, changed=["model.width: 64 -> 16", "task.epochs: 240 -> 8"], **PLAN)
    for cell in folder.cells:
        place = cell["coordinates"]
        if place["method"] == "CE+RMDNet":
            cell["changed"].append("relation.k: 1 -> 0.1" if place["dataset"] == "cifar10" else "relation.k: 1 -> 0.5")
        elif place["dataset"] == "cifar10" and place["rate"] == "0.4":
            cell["changed"].append("task.lr: 0.1 -> 0.2")
    folder.write()
    page = table([folder.folder])
    assert "- Changed from the grid's recipe in every run: model.width: 64 -> 16; task.epochs: 240 -> 8.\n" in page
    assert "- Changed from the grid's recipe in cifar10; CE+RMDNet: relation.k: 1 -> 0.1.\n" in page
    assert "- Changed from the grid's recipe in cifar100; CE+RMDNet: relation.k: 1 -> 0.5.\n" in page
    assert "- Changed from the grid's recipe in cifar10; CE; rate 0.4: task.lr: 0.1 -> 0.2.\n" in page
    assert "The published numbers are of the paper's own recipe at full size, without these changes." in page
    assert "Gain over the baseline: no pair of runs is finished." in page
    assert "| published, full size |" in page
    assert "| published |" not in page
    latex = (folder.folder / "table.tex").read_text()
    assert r"model.width: 64 $\to$ 16" in latex
    assert "published, full size" in latex
    with open(folder.folder / "table.csv") as file:
        assert next(csv.DictReader(file))["changed"] == "model.width: 64 -> 16; task.epochs: 240 -> 8"


def test_changes_without_a_pattern_are_counted(tmp_path):
    folder = SweepFolder(tmp_path, AXES, seeds=[0], **PLAN)
    for cell in folder.cells:
        if (cell["coordinates"]["dataset"] == "cifar10") == (cell["coordinates"]["rate"] == "0.2"):
            cell["changed"] = ["relation.k: 1 -> 2"]
    folder.write()
    expected = "in 4 cells (see table.csv), such as cifar10 CE symmetric 0.2: relation.k: 1 -> 2."
    assert expected in table([folder.folder])


def test_the_csv_has_a_line_for_each_cell(folder):
    table([folder.folder])
    with open(folder.folder / "table.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8
    by_place = {(line["dataset"], line["method"], line["rate"]): line for line in lines}
    line = by_place["cifar10", "CE+RMDNet", "0.4"]
    assert {key: line[key] for key in list(line)[4:]} == {
        "published": "71.0", "last_mean": "72.0000", "last_std": "1.7321", "difference": "1.0000",
        "best_mean": "75.0000", "best_std": "0.0000", "gain": "9.0000", "gain_std": "1.0000",
        "published_gain": "8.8800", "n": "3", "seeds": "0 1 2", "planned": "3", "status": "3 finished",
        "changed": "", "note": "", "held_out_mean": "", "held_out_std": "", "seconds": "",
    }  # fmt: skip
    line = by_place["cifar100", "CE", "0.4"]
    assert (line["n"], line["seeds"], line["status"]) == ("2", "0 2", "2 finished, 1 diverged")
    line = by_place["cifar100", "CE", "0.2"]
    assert (line["last_mean"], line["last_std"], line["status"]) == ("", "", "3 not begun")
    assert by_place["cifar10", "CE+RMDNet", "0.2"]["status"] == "1 finished, 2 not begun, 1 collapsed"


def test_latex_has_the_same_numbers(folder):
    table([folder.folder])
    latex = (folder.folder / "table.tex").read_text()
    assert latex.count(r"\begin{table}") == 4  # two datasets, last and best epoch
    assert r"\caption{Accuracy (RMDNet, Table 1), cifar10, symmetric: last epoch.}" in latex
    assert r"CE & ours & --- & 63.00 $\pm$ 1.00 \\" in latex
    assert r" & gain over CE &  & $+$9.00 $\pm$ 1.00 \\" in latex
    assert r"10.00$^\dagger$ (1/3)" in latex


def test_doubts_about_printed_numbers_are_footnotes(tmp_path):
    axes = {"dataset": ["cifar10"], "method": ["NCE_AEL+RMDNet", "MAE"], "noise": ["symmetric"], "rate": ["0.4"]}
    page = table([SweepFolder(tmp_path, axes, **PLAN).folder])
    last = rows(page)["Last epoch"]["cifar10, symmetric, rate 0.4"]
    assert last["NCE_AEL+RMDNet", "published"] == ["91.01 [1]"]
    assert last["MAE", "published"] == ["not printed"]
    assert "- [1] doubtful: only 1.26 below rate 0.1" in page


def test_a_grid_of_ones_own_has_neither_published_numbers_nor_gains(tmp_path):
    folder = SweepFolder(tmp_path, {"k": ["0.1", "1"]}, seeds=[0], grid="mine")
    folder.finish("0.1", curve=[50.0])
    page = table([folder.folder])
    assert page.count("| k   | accuracy |") == 2
    assert "| 0.1 |    50.00 |" in page
    assert "published" not in page.lower()
    assert "gain" not in page.lower()


def test_the_grid_has_to_be_the_one_that_was_asked_for(folder, tmp_path, capsys):
    assert report.main(["table1", str(folder.folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-4:] == [str(folder.folder / name) for name in (
        "table.md", "table.csv", "table.tex", "figures/table.png")]  # fmt: skip
    assert (folder.folder / "table.md").read_text() == "\n".join(printed[:-5]) + "\n"
    assert report.main(["table", str(folder.folder)]) == 0
    assert report.main(["table2", str(folder.folder)]) == 65
    assert capsys.readouterr().err == f"error: {folder.folder} holds grid table1, not table2\n"
    with pytest.raises(DataError, match="holds grid table1, not cpu-grid"):
        table([folder.folder], grid="cpu-grid")


def test_some_cells_alone(folder, capsys):
    words = ["--only", "method=CE", "--only=dataset=cifar10,cifar100", "--only", "rate=0.4"]
    assert report.main(["table1", str(folder.folder), *words]) == 0
    page = capsys.readouterr().out
    assert "- 5 of 6 runs finished, 1 diverged.\n" in page
    assert "- Only method=CE, dataset=cifar10,cifar100, rate=0.4.\n" in page
    assert {method for block in rows(page)["Last epoch"].values() for method, _ in block} == {"CE"}
    for words, message in (
        ("colour=red", "there is no axis 'colour'; the axes are dataset, method, noise, rate"),
        ("method=GCE", "method has no 'GCE'; it has CE, CE+RMDNet"),
        ("CE", "--only CE: expected axis=value,value, such as method=CE,CE+RMDNet"),
    ):
        assert report.main(["table1", str(folder.folder), "--only", words]) == 2
        assert message in capsys.readouterr().err


def test_gains_over_any_method(folder, capsys):
    assert report.main(["table", str(folder.folder), "--over", "CE+RMDNet", "--lines", "true"]) == 0
    page = capsys.readouterr().out
    assert "over CE+RMDNet" in page
    assert "over CE " not in page
    assert report.main(["table", str(folder.folder), "--over", "GCE"]) == 2
    assert "method has no 'GCE'; it has CE, CE+RMDNet" in capsys.readouterr().err


def test_a_file_that_cannot_be_written(folder):
    (folder.folder / "table.csv").mkdir()
    with pytest.raises(WriteFailed, match=r"table\.csv: cannot be written"):
        table([folder.folder])


def test_the_picture_has_a_point_for_every_number(folder):
    figure = draw(Comparison(read([folder.folder])))
    first, second = figure.axes
    assert [axis.get_title() for axis in (first, second)] == ["cifar10, symmetric", "cifar100, symmetric"]
    assert [tick.get_text() for tick in first.get_xticklabels()] == ["rate 0.2", "rate 0.4"]
    ours = [container.lines[0].get_ydata().tolist() for container in first.containers]
    assert ours[0][1] == 63.0
    assert ours[1] == [10.0, 72.0]
    hollow = [line.get_ydata().tolist() for line in first.lines if line.get_fillstyle() == "none"]
    assert [80.73, 62.12] in hollow
    assert [85.20, 71.00] in hollow
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CE", "CE+RMDNet", "published"]
    table([folder.folder])
    assert (folder.folder / "figures" / "table.png").read_bytes().startswith(b"\x89PNG")


def test_values_of_a_parameter_are_joined_to_curves(tmp_path):
    """Fig. 6 of MODUL: each curve over the values that its parameter has, with gaps passed over."""
    axes = {"method": ["alpha", "t"], "value": ["0.001", "0.1", "0.3", "1"]}
    folder = SweepFolder(tmp_path, axes, seeds=[0], grid="mine")
    for number, values in enumerate([("alpha", "0.001"), ("alpha", "0.1"), ("alpha", "1"), ("t", "0.1"), ("t", "0.3")]):
        folder.finish(*values, curve=[50.0 + number])
    (axis,) = draw(Comparison(read([folder.folder]))).axes
    curves = [[*line.get_ydata()] for line in axis.lines if line.get_linestyle() == "-"]
    assert [curve for curve in curves if max(curve) > 1] == [[50.0, 51.0, 52.0], [53.0, 54.0]]  # others are edges
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0.001", "0.1", "0.3", "1"]
    assert axis.get_xlabel() == "value"


def test_what_is_compared_with_one_baseline_is_told_apart_and_long_titles_are_wrapped(tmp_path):
    methods = ["CE", "CE+RGRL", "CE+RGRL+RM", "GCE"]
    compare, title = {"CE+RGRL": "CE", "CE+RGRL+RM": "CE"}, "Accuracy of methods with a long story, " * 3
    folder = SweepFolder(tmp_path, {"method": methods}, seeds=[0], grid="mine", compare=compare, title=title)
    for number, method in enumerate(methods):
        folder.finish(method, curve=[50.0 + number])
    figure = draw(Comparison(read([folder.folder])))
    (axis,) = figure.axes
    looks = [(c.lines[0].get_color(), c.lines[0].get_marker()) for c in axis.containers]
    assert len(set(looks)) == 4
    assert len({colour for colour, _ in looks[:3]}) == 1
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_runs_that_were_really_trained(tmp_path, capsys):
    data = small.prepare(tmp_path / "data")
    folder = SweepFolder(
        tmp_path / "mine", {"method": ["CE", "CE+RGRL"]}, seeds=[0, 1], grid="mine", compare={"CE+RGRL": "CE"}
    )
    stages = {"CE": "[classifier]", "CE+RGRL": "[rgrl]"}
    for cell in folder.cells[:3]:
        command = [
            *small.RECIPE, "data.reader=memory", f"data.path={data}", f"out={folder.folder}", f"name={cell['run']}",
            f"stages={stages[cell['coordinates']['method']]}", f"seed={cell['seed']}", "relation.teacher=random",
        ]  # fmt: skip
        assert train(command) == 0
    capsys.readouterr()
    assert report.main(["table", *(str(folder.folder / cell["run"]) for cell in folder.cells)]) == 0
    page = capsys.readouterr().out

    def measured(run, stage):
        records = map(json.loads, (folder.folder / run / "metrics.jsonl").read_text().splitlines())
        return [record["test/top1"] for record in records if record["stage"] == stage and "test/top1" in record]

    without = [measured(f"CE-seed{seed}", "classifier") for seed in (0, 1)]
    with_it = measured("CE+RGRL-seed0", "rgrl")
    assert [len(curve) for curve in (*without, with_it)] == [2, 2, 2]
    mean, std = (f([curve[-1] for curve in without]) for f in (statistics.mean, statistics.stdev))
    last = rows(page)["Last epoch"][""]
    assert [text.replace("†", "") for text in last["CE", "ours"]] == [f"{mean:.2f} ± {std:.2f}"]
    assert [text.replace("†", "") for text in last["CE+RGRL", "ours"]] == [f"{with_it[-1]:.2f} (1/2)"]
    assert last["CE+RGRL", "gain over CE"] == [f"{with_it[-1] - without[0][-1]:+.2f}"]
    best = rows(page)["Best epoch, chosen by looking at the test images"][""]
    assert best["CE+RGRL"][0].startswith(f"{max(with_it):.2f}")
    assert "- 3 of 4 runs finished, 1 not begun.\n" in page
