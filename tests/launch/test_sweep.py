import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from support import small
from support.torchrun import ROOT, wait_for

from dist_rmd.run.finished import FinishedRun
from dist_rmd.stages.rgrl import RelationConfig
from dist_rmd.sweep.__main__ import main
from dist_rmd.sweep.grid import load
from dist_rmd.sweep.tasks import Planner

GRID = """
title: Digits
config: base.yaml
set: {simsiam.seed: 0}
axes:
  method:
    CE: {stages: [classifier]}
    CE+RMDNet: {stages: [simsiam, rgrl]}
    too fast: {stages: [classifier], task.weight_decay: 1.0e+30}
search: {key: relation.k, values: [0.1, 1], holdout: 0.2, if: {method: CE+RMDNet}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    small.prepare(folder)
    (folder / "base.yaml").write_text("name: base\n")
    (folder / "small.yaml").write_text(GRID)
    return folder


def words(folder, out, *arguments):
    """The command line of a sweep in `folder`/`out`."""
    overrides = [*small.RECIPE, f"data.path={folder}/digits", f"out={folder}/{out}"]
    return [str(folder / "small.yaml"), *overrides, *arguments]


def start(*arguments):
    """The process of a sweep."""
    command = [sys.executable, str(ROOT / "launch/sweep.py"), *words(*arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, env=os.environ | {"OMP_NUM_THREADS": "1"})


def sweep(*arguments):
    """Its exit code and the lines it wrote."""
    with start(*arguments) as process:
        output, errors = process.communicate(timeout=800)
    assert not errors
    return process.returncode, output.splitlines()


@pytest.mark.timeout(600)  # 40 s on two cores of its own
def test_one_bad_cell_does_not_stop_the_rest_and_what_is_done_is_not_done_again(folder, capsys):
    code, said = main(words(folder, "whole", "--jobs", "2")), capsys.readouterr()
    lines = said.out.splitlines()
    runs = folder / "whole" / "small"
    assert (code, said.err) == (1, ""), lines
    assert lines[0] == "3 runs, 0 finished before"
    assert lines[-2] == "2 of 3 runs are finished"
    assert lines[-1].startswith("missing  too_fast-seed0: classifier: ")
    assert len(list((folder / "whole" / "artefacts").glob("simsiam-*"))) == 1
    assert "\nfinished in " in (runs / "logs" / "CE-seed0.log").read_text()
    for name, stage in (("CE-seed0", "classifier"), ("CE+RMDNet-seed0", "rgrl")):
        assert [record["epoch"] for record in FinishedRun(runs / name).scores(stage)] == [1, 2]
    assert len(json.loads((runs / "sweep.json").read_text())["cells"]) == 3

    assert main(words(folder, "whole")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 runs, 2 finished before"
    assert not [line for line in lines if line.startswith("started")]

    assert main(words(folder, "whole", "--dry-run", "--only", "method=too fast,CE")) == 0
    assert capsys.readouterr().out.splitlines() == ["done     CE-seed0", "diverged too_fast-seed0"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_that_is_stopped_goes_on(folder):
    arguments = (folder, "stopped", "--only", "method=CE,CE+RMDNet", "--jobs", "2", "simsiam.epochs=400")
    with start(*arguments) as process:
        status = folder / "stopped" / "small"
        wait_for(lambda: [path for path in status.glob("simsiam-*/simsiam/checkpoints/*.pt")], 400)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 75, output
    assert output.splitlines()[-1] == "stopped by SIGINT: the same command goes on"
    assert any(line.startswith("stopped  simsiam-") for line in output.splitlines())
    code, lines = sweep(*arguments)
    assert code == 0, lines
    log = next((status / "logs").glob("simsiam-*.log")).read_text()
    assert "simsiam: going on from epoch" in log


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_k_is_found_on_labels_held_out(folder):
    arguments = (folder, "searched", "--only", "method=CE+RMDNet", "--search", "--jobs", "2")
    code, lines = sweep(*arguments)
    assert code == 0, lines
    runs = folder / "searched" / "small"
    found = json.loads((runs / "search.json").read_text())["CE+RMDNet"]
    scores = {}
    for value in (0.1, 1):
        trial = FinishedRun(runs / "search" / "CE+RMDNet" / f"relation.k={value}-seed0")
        assert trial.config.data.holdout == 0.2
        scores[str(value)] = trial.scores("rgrl")[-1]["val/top1"]
    assert found["val/top1"] == scores
    assert scores[str(found["value"])] == max(scores.values())
    final = FinishedRun(runs / "CE+RMDNet-seed0")
    assert (final.config.section(RelationConfig).k, final.config.data.holdout) == (found["value"], 0)
    assert "val/top1" not in final.scores("rgrl")[-1]
    assert len(list((folder / "searched" / "artefacts").glob("simsiam-*"))) == 1  # the search has the same teacher


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "noise=symmetric"), "there is no axis 'noise'"),
        (("--only", "CE"), "expected axis=value"),
        (("task.rl=1",), "unknown key 'task.rl'"),
        (("task.batch_size=1",), "CE-seed0: task.batch_size=1"),
        (("seed=1",), "see --seeds"),
        (("name=mine",), "name= is what the grid says"),
        (("--jobs", "0"), "argument --jobs"),
        (("--seeds", "1,1"), "seeds must be different"),
        (("--follow",), "--follow is for --slurm"),
        (("--slurm",), "--time is missing"),
        (("--slurm", "--time=soon"), "none of SLURM's formats"),
        (("--slurm", "--time=9", "--sbatch=dependency=afterok:7"), "the jobs of a sweep already wait for one another"),
    ],
)
def test_mistakes_are_named_before_any_work(folder, arguments, message, capsys):
    code = main(words(folder, "nothing", *arguments))
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert message in said.err
    assert not (folder / "nothing").exists()


def test_the_arrays_of_a_dry_run(folder, capsys):
    options = ("--slurm", "--dry-run", "--time=90", "--seeds=0,1,2", "--pack=2", "--jobs=4", "--cpus-per-task=8",
               "--sbatch=reservation=mine", "--srun=--mpi=none")  # fmt: skip
    assert main(words(folder, "nothing", *options, "--only=method=CE,CE+RMDNet")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "7 runs: 7 open"
    names = [line.partition("=")[2] for line in lines if line.startswith("#SBATCH --job-name=")]
    assert names == ["small-simsiam", "small", "small"]
    assert [line for line in lines if line.startswith("#SBATCH --array=")] == ["#SBATCH --array=0-1%2"] * 2
    assert [line for line in lines if line.startswith("# element")][1:] == [
        "# element 0: CE-seed0, CE-seed1",
        "# element 1: CE-seed2",
        "# element 0: CE+RMDNet-seed0, CE+RMDNet-seed1",
        "# element 1: CE+RMDNet-seed2",
    ]
    assert len([line for line in lines if line.startswith("# after simsiam-")]) == 1
    assert "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}" in lines  # of each of two runs
    assert lines.count("#SBATCH --reservation=mine") == len(names)
    assert len([line for line in lines if line.startswith("srun ") and " --mpi=none " in line]) == len(names)
    assert not (folder / "nothing").exists()


def test_runs_of_gpus_are_known_where_there_is_none(folder, capsys):
    """What was trained in bf16 on a GPU is done, also for a login node, which would train in fp32."""
    command = [
        words(folder, "gpus")[0],
        *[word for word in words(folder, "gpus")[1:] if not word.startswith("device=")],
    ]
    grid = load(folder / "small.yaml")
    for device, said in (("cuda", "1 run: 1 done"), ("cpu", "1 run: 1 open")):
        planner = Planner("small", tuple(command[1:]), 1, torch.device("cuda"))
        task = planner.task(grid.cells[0], grid.cells[0].name)
        small.artefact(task.folder.artefact("classifier"), task.keys["classifier"])
        outcome = {"code": 0, "reason": "done", "keys": dict(task.keys)}
        task.folder.exit.write_text(json.dumps(outcome))
        kept = folder / "gpus" / "small" / "slurm" / "jobs.json"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps({"device": device, "jobs": {}}))
        main([*command, "--status", "--only=method=CE"])
        assert said in capsys.readouterr().out


@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_a_sweep_as_job_arrays(folder, cluster, capsys):
    """A teacher, two cells from it in one element, and one whose loss is not finite, which stops none of them."""
    options = ("--slurm", "--time=30", "--follow", "--seeds=0,1", "--pack=2", "--only=method=CE+RMDNet,too fast")
    code, lines = sweep(folder, "slurm", *options)
    runs = folder / "slurm" / "small"
    assert code == 1, lines
    assert lines[0] == "5 runs: 5 open"
    assert re.fullmatch(r"submitted  small-simsiam: 1 run, job \d+ x 1", lines[1])
    assert re.fullmatch(r"submitted  small: 2 runs, job \d+ x 1, after \d+", lines[3])
    assert lines[-1] == "5 runs: 2 diverged, 3 done"
    assert len(list((folder / "slurm" / "artefacts").glob("simsiam-*"))) == 1
    ends = [(runs / f"CE+RMDNet-seed{seed}" / "exit.json").stat().st_mtime for seed in (0, 1)]
    starts = [(runs / f"CE+RMDNet-seed{seed}" / "config.yaml").stat().st_mtime for seed in (0, 1)]
    assert max(starts) < min(ends)  # side by side

    assert main(words(folder, "slurm", *options)) == 1
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("submitted")]
    assert main(words(folder, "slurm", "--status", "--seeds=0,1", "--only=method=too fast")) == 1
    said = capsys.readouterr().out
    assert "2 runs: 2 diverged" in said
    assert "loss not finite" in said


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_element_that_is_moved_goes_on_with_all_its_runs(folder, cluster):
    arguments = (
        folder,
        "moved",
        "--slurm",
        "--time=30",
        "--seeds=0,1",
        "--pack=2",
        "--only=method=CE",
        "task.epochs=60",
    )
    code, lines = sweep(*arguments)
    assert code == 0, lines
    runs = folder / "moved" / "small"
    wait_for(lambda: len({path.parts[-4] for path in runs.glob("CE-*/classifier/checkpoints/*.pt")}) == 2, 400)
    job = json.loads((runs / "slurm" / "jobs.json").read_text())["jobs"]["CE-seed0"]
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    log = runs / "slurm" / f"{job}_0_log.out"
    wait_for(lambda: f"job {job}: requeued" in log.read_text(), 100)
    code, lines = sweep(*arguments, "--follow")  # it is in the queue: nothing is submitted again
    assert code == 0, lines
    assert not [line for line in lines if line.startswith("submitted")]
    for seed in (0, 1):
        assert "going on from" in (runs / "logs" / f"CE-seed{seed}.log").read_text()
