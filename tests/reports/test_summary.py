import json
import shutil

import pytest

from dist_rmd.config import sections, to_dict
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.reports.summary import method, summary
from dist_rmd.run import start
from dist_rmd.run.folder import RunFolder


def run(folder, accuracies, *overrides, resolved=None):
    """A run folder whose classifier measured these accuracies after epochs 1, 2, ..."""
    config = ["stages=[classifier]", "data.path=data/pets", "noise.rate=0.4"]
    overrides = [f"task.epochs={len(accuracies)}", *overrides]
    config = sections.parse(None, [*config, *overrides])
    start.describe(RunFolder(folder), config, world=1, device="cpu", resolved=resolved or {})
    records = [
        {"stage": "classifier", "epoch": epoch, "step": 10 * epoch, "test/top1": accuracy}
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def rows(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_last_and_best_of_one_run(tmp_path):
    (row,) = rows(summary([run(tmp_path, [50.0, 80.0, 70.0])]))
    assert row == ["CE", "pets", "symmetric 0.4", "test/top1", "70.00", "80.00 at epoch 2", "1"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("stages=[classifier] task.mixup=1", "CE+Mixup"),
        ("stages=[simsiam,rgrl]", "CE+RMDNet (K=1)"),
        ("stages=[simsiam,relabel,rgrl] task.relabel=true", "CE+RMDNet plus (K=1)"),
        ("stages=[simsiam,rgrl_elr] task.mixup=1", "ELR+Mixup+RMDNet (K=1)"),
        ("stages=[teacher,vkd] vkd.transfer=features", "VKD"),
        ("stages=[teacher,vkd]", "KD (T=4)"),
        ("stages=[teacher,vkd] vkd.alpha=1", "CE"),
        ("stages=[teacher,division,modul]", "MODUL"),
        ("stages=[teacher,division,modul] modul.soft_open=0.2", "MODUL plus"),
    ],
)
def test_what_goes_beyond_a_paper_has_another_name(words, name):
    config = sections.parse(None, [*words.split(), "data.path=data/pets"])
    assert method(config.stages[-1], to_dict(config)) == name


def test_an_unfinished_run_is_named_as_such(tmp_path):
    (row,) = rows(summary([run(tmp_path, [50.0, 80.0], "task.epochs=9")]))
    assert row[0] == "CE, unfinished: 2 of 9 epochs"


def test_mean_and_sample_standard_deviation_over_seeds(tmp_path):
    runs = [run(tmp_path / str(seed), [60.0 + 2 * seed], f"seed={seed}", f"noise.seed={seed}") for seed in range(3)]
    (row,) = rows(summary(runs))
    assert row[4:] == ["62.00 ± 2.00", "62.00 ± 2.00 at epoch 1, 1, 1", "3"]


def test_runs_that_differ_in_how_they_were_carried_out_are_seeds_of_one_another(tmp_path):
    ways = ["data.workers=1", "dist.timeout=60", "speed.compile=true", "device=cpu data.reader=memory log.every=1"]
    runs = [run(tmp_path / str(seed), [60.0], f"seed={seed}", *way.split()) for seed, way in enumerate(ways)]
    (row,) = rows(summary(runs))
    assert row[6] == "4"


def test_what_lies_at_a_path_counts_and_not_the_path(tmp_path):
    def taught(name, where, key, seed):
        settings = [f"inputs.teacher={where}", f"seed={seed}"]
        return run(tmp_path / name, [60.0], *settings, resolved={"inputs.teacher": key})

    moved = [taught("a", "runs/t", "0a", 0), taught("b", "elsewhere/t", "0a", 1)]
    assert [row[6] for row in rows(summary(moved))] == ["2"]
    assert [row[6] for row in rows(summary([*moved, taught("c", "runs/t", "1b", 0)]))] == ["2", "1"]


def test_a_run_counts_once_by_whatever_paths_and_copies(tmp_path):
    first, other = (run(tmp_path / f"s{seed}", [60.0 + seed], f"seed={seed}") for seed in (0, 1))
    shutil.copytree(first, tmp_path / "backup")
    (tmp_path / "latest").symlink_to("s0")
    again = run(tmp_path / "again", [61.0], "data.workers=1")  # the same seed once more
    page = summary([first, tmp_path / "backup", tmp_path / "latest", other, again, first])
    table, said = page.split("\n\n")
    (row,) = rows(table)
    assert (row[4], row[6]) == ("60.50 ± 0.71", "2")
    folders = ", ".join(str(tmp_path / name) for name in ("s0", "backup", "latest", "again", "s0"))
    assert said == f"Counted once, being of one recipe and seed: {folders}."


def test_in_a_run_of_an_older_version_the_path_stands_for_what_lies_there(tmp_path):
    runs = [run(tmp_path / where, [60.0], f"inputs.teacher={where}") for where in ("a", "b")]
    for folder in runs:
        environment = json.loads((folder / "env.json").read_text())
        del environment["resolved"]
        (folder / "env.json").write_text(json.dumps(environment))
    assert [row[6] for row in rows(summary(runs))] == ["1", "1"]


def test_runs_with_other_settings_are_no_seeds_of_one_another(tmp_path):
    runs = [run(tmp_path / "a", [60.0]), run(tmp_path / "b", [70.0], "task.lr=0.5", "seed=1")]
    assert [row[4] for row in rows(summary(runs))] == ["60.00", "70.00"]


def test_a_run_that_has_not_measured_anything_is_left_out_and_named(tmp_path):
    begun, waiting = run(tmp_path / "a", [50.0]), run(tmp_path / "b", [60.0], "seed=1")
    (waiting / "metrics.jsonl").unlink()
    table, said = summary([waiting, begun]).split("\n\n")
    assert [row[4] for row in rows(table)] == ["50.00"]
    assert said == f"Left out, since nothing is measured yet: {waiting}."


def test_folders_without_a_run_or_a_measurement_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no run here"):
        summary([tmp_path])
    run(tmp_path, [1.0])
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match="not measured anything"):
        summary([tmp_path])
