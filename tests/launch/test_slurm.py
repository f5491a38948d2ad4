import json
import os
import re
import subprocess
import sys
import time

import pytest
import small
from torchrun import ROOT, is_held, wait_for
from whole_runs import assert_same, records

from dist_rmd.cluster.options import SITE
from dist_rmd.cluster.state import follow, scontrol, slurm_state
from launch.slurm import arguments, main

TOOL = str(ROOT / "tools/slurm")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as many in all runs: sums of other parts round differently


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder without a site's defaults."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home" / SITE).parent.mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A SLURM cluster for these tests alone, in the environment of all they start."""
    env = os.environ | {"SLURM_FOLDER": str(tmp_path_factory.getbasetemp() / "cluster")}
    up = subprocess.run([TOOL, "up"], capture_output=True, text=True, env=env, timeout=600)
    if up.returncode:
        pytest.skip(f"tools/slurm up: {up.stderr.strip().splitlines()[-1]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", f"{env['SLURM_FOLDER']}/slurm.conf")
        yield
        subprocess.run([TOOL, "down"], check=True, env=env, timeout=60)


def words(data, out, *more):
    return [*more, *small.RECIPE, f"data.path={data}", f"out={out}", "name=run", "stages=[classifier]"]


def on_two_nodes(data, out, *more):
    """The command line of a job of two ranks; the nodes' names mean nothing to others, so their address is set."""
    return words(data, out, "--nodes=2", "--time=30", "--setup=export MASTER_ADDR=127.0.0.1", *more)


def launched(command, env=None):
    """What launch/slurm.py prints in a process of its own."""
    tool = [sys.executable, str(ROOT / "launch/slurm.py"), *command]
    done = subprocess.run(tool, capture_output=True, text=True, cwd=ROOT, env=os.environ | ONE_THREAD | (env or {}))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def held(data, out):
    """The id of a job on two nodes whose first task sleeps in the middle of its fifth step, until a signal wakes it."""
    fault = {"DIST_RMD_FAULT": "kind=SIGSTOP,rank=0,step=4"}
    job = re.match(r"job +(\d+): ", launched(on_two_nodes(data, out), fault)).group(1)
    lock = out / "run" / "run.lock"
    wait_for(lambda: lock.exists() and lock.read_text() and is_held(json.loads(lock.read_text())["pid"]), 240)
    return job


def followed(job, out):
    """Exit code and what is said of a job until its end."""
    said = []
    return follow(lambda: slurm_state(job), out / "run" / "slurm" / f"{job}_0_log.out", said.append), said


@pytest.fixture(scope="module")
def undisturbed(cluster, data, tmp_path_factory):
    """The folder of a run on two nodes that nothing happened to, and what its job said when it was followed."""
    out = tmp_path_factory.mktemp("undisturbed")
    return out / "run", launched(on_two_nodes(data, out, "--follow")).splitlines()


@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_two_nodes_train_one_network(undisturbed):
    run, said = undisturbed
    assert any("classifier on 2 x CPU" in line for line in said)
    assert said[-1].endswith("COMPLETED, exit code 0")
    environment = json.loads((run / "env.json").read_text())
    assert (environment["world"], environment["slurm"]["SLURM_JOB_NUM_NODES"]) == (2, "2")
    assert [record["test/top1"] for record in records(run, "classifier") if "test/top1" in record]


@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_a_preempted_job_goes_on_under_its_id_and_ends_with_the_same_bits(undisturbed, data, tmp_path):
    run, _ = undisturbed
    job = held(data, tmp_path)
    rival = ["sbatch", "--partition=high", "--nodes=2", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 3"]
    subprocess.run(rival, check=True, capture_output=True)
    code, said = followed(job, tmp_path)
    assert code == 0, said
    assert said[-1].endswith("COMPLETED, restarts: 1, exit code 0")
    assert any(line.startswith(f"job {job}: requeued") for line in said), said
    assert any("going on from" in line for line in said), said
    assert_same(tmp_path / "run", run, "classifier")


@pytest.mark.slurm
@pytest.mark.timeout(400)
def test_a_cancelled_job_saves_and_does_not_come_back(cluster, data, tmp_path):
    job = held(data, tmp_path)
    subprocess.run(["scancel", job], check=True)
    code, said = followed(job, tmp_path)
    assert code != 0
    assert "CANCELLED" in said[-1]
    time.sleep(3)
    assert scontrol("show", "job", job)["JobState"] == "CANCELLED"


@pytest.mark.slurm
def test_a_rejected_job_is_told_in_the_words_of_slurm(cluster, data, tmp_path, capsys):
    assert main(on_two_nodes(data, tmp_path, "--partition=gpu")) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: not submitted: invalid partition specified: gpu; Batch job submission failed: Invalid partition name "
        "specified"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_on_this_machine(data, tmp_path, capsys):
    assert main(words(data, tmp_path, "--local", "--tasks-per-node=2", "--follow")) == 0
    said = capsys.readouterr().out
    assert "classifier on 2 x CPU" in said
    assert said.splitlines()[-1].endswith("COMPLETED, exit code 0")
    assert json.loads((tmp_path / "run" / "exit.json").read_text())["status"] == "done"


def test_the_script_of_a_dry_run(data, tmp_path, capsys):
    options = ("--nodes=4", "--gpus-per-node=8", "--cpus-per-task=6", "--mem=64G", "--time=1-12", "--partition=gpu")
    assert main(words(data, tmp_path, *options, "--setup=module load cuda", "--account=vision", "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    for flag in (
        "nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=6", "mem=64G", "time=2160", "partition=gpu",
        "account=vision", "signal=USR2@120", "requeue", "open-mode=append", "job-name=run",
    ):  # fmt: skip
        assert f"#SBATCH --{flag}" in lines
    setup = lines.index("module load cuda || exit")
    assert lines[setup - 1] == "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-6}"
    assert lines[setup + 4].startswith("srun ")
    assert not (tmp_path / "run").exists()


def test_the_command_line_wins_over_the_site(home, data, tmp_path):
    (home / SITE).write_text("account: vision\ntime: 12:00:00\ncpus-per-task: 4\nsetup: [module load cuda]\n")
    options = arguments(words(data, tmp_path, "--account=audio", "--setup=true"))
    assert (options.account, options.time, options.cpus_per_task) == ("audio", 720, 4)
    assert options.setup == ["module load cuda", "true"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acount: vision", "unknown option 'acount', did you mean 'account'?"),
        ("nodes: two", "argument --nodes: 'two' is not a positive whole number"),
        ("- account", "expected lines such as `account: vision`"),
        ("account: [", "while parsing"),
    ],
)
def test_mistakes_in_the_sites_file(home, data, tmp_path, capsys, text, message):
    (home / SITE).write_text(text)
    assert main(words(data, tmp_path, "--dry-run")) == 2
    assert capsys.readouterr().err.startswith(f"error: {home / SITE}: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--time=12h"], "argument --time: '12h' is none of SLURM's formats: minutes, "),
        (["--time=0"], "argument --time: '0' is no time at all"),
        (["--dry-run"], "--time is missing: "),
        (["--time=9"], "sbatch is not in PATH: "),
        (["--nodes=0"], "argument --nodes: '0' is not a positive whole number"),
        (["--gpus-per-node=2", "--tasks-per-node=2"], "--gpus-per-node and --tasks-per-node: "),
        (["--local", "--nodes=2"], "--local: it is one machine"),
        (["--time=9", "--dry-run", "task.rl=1"], "unknown key 'task.rl'"),
        (["--gpus=1"], "unrecognized arguments: --gpus=1"),
    ],
)
def test_mistakes_are_one_line(data, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM
    assert main(words(data, tmp_path, *options)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {message}")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
