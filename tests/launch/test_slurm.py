import getpass
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from support.slurm_jobs import (
    HELD,
    finished,
    followed,
    launched,
    log_of,
    reconfigured,
    run,
    signalled,
    submitted,
    wait_until_held,
    words,
)
from support.torchrun import ROOT
from support.whole_runs import assert_same, records

from dist_rmd.cluster.options import SITE
from dist_rmd.cluster.state import scontrol
from dist_rmd.slurm import arguments, main


def rival():
    """A job of higher priority, for which SLURM stops what runs in the partition low."""
    run("sbatch", "--partition=high", "--nodes=2", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 3")


def assert_went_on(job, out, undisturbed):
    """The job ends well after one requeue, with the bits of a run that nothing happened to."""
    code, said = followed(job, log_of(job, out))
    assert code == 0, "\n".join(said)
    assert said[-1].endswith("COMPLETED, restarts: 1, exit code 0")
    assert any("going on from" in line for line in said), "\n".join(said)
    assert_same(out / "run", undisturbed[0], "classifier")
    return said


@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_two_nodes_train_one_network(undisturbed):
    folder, said = undisturbed
    assert any("classifier on 2 x CPU" in line for line in said)
    assert said[-1].endswith("COMPLETED, exit code 0")
    environment = json.loads((folder / "env.json").read_text())
    assert (environment["world"], environment["slurm"]["SLURM_JOB_NUM_NODES"]) == (2, "2")
    assert [record["test/top1"] for record in records(folder, "classifier") if "test/top1" in record]


@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_a_preempted_job_goes_on_under_its_id_and_ends_with_the_same_bits(undisturbed, data, tmp_path):
    job = submitted(data, tmp_path, fault=HELD)
    wait_until_held(tmp_path / "run")
    rival()
    said = assert_went_on(job, tmp_path, undisturbed)
    assert any("stopped by SIGUSR2 after step 5" in line for line in said)
    assert any(line.startswith(f"job {job}: requeued") for line in said)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_preempted_by_sigterm_alone(undisturbed, data, tmp_path):
    """As on a cluster that knows no better."""
    with reconfigured("SlurmctldParameters=preempt_send_user_signal\n", ""):
        job = submitted(data, tmp_path, fault=HELD)
        wait_until_held(tmp_path / "run")
        rival()
        said = assert_went_on(job, tmp_path, undisturbed)
    assert any("stopped by SIGTERM after step 5" in line for line in said)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", [[], ["--torchrun"]], ids=["a task for each rank", "torchrun"])
def test_a_signal_on_request_moves_the_job(undisturbed, data, tmp_path, options):
    job = submitted(data, tmp_path, *options, fault=HELD)
    wait_until_held(tmp_path / "run")
    signalled(job, "USR2")
    said = assert_went_on(job, tmp_path, undisturbed)
    assert any("stopped by SIGUSR2 after step 5" in line for line in said)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(1200)
def test_at_its_time_limit_a_job_is_requeued(undisturbed, data, tmp_path):
    job = submitted(data, tmp_path, "--time=5", fault=HELD)  # SLURM sends the signal up to a minute early
    assert_went_on(job, tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_a_node_that_fails(undisturbed, data, tmp_path):
    job = submitted(data, tmp_path, fault=HELD.replace("step=4", "step=7"))  # the first epoch's checkpoint is written
    wait_until_held(tmp_path / "run")
    run("scontrol", "update", "nodename=a2", "state=down", "reason=test")
    try:
        run("scontrol", "update", "nodename=a2", "state=resume")
        assert_went_on(job, tmp_path, undisturbed)
    finally:
        run("scancel", job)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_a_job_that_is_left_and_cancelled_saves_and_does_not_come_back(cluster, data, tmp_path):
    command = [sys.executable, "launch/slurm.py", *words(data, tmp_path, "--nodes=2", "--time=30", "--follow")]
    env = os.environ | {"DIST_RMD_FAULT": HELD}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env) as watching:
        wait_until_held(tmp_path / "run")
        watching.send_signal(signal.SIGINT)
        said, _ = watching.communicate(timeout=60)
        assert watching.returncode == 0
    job = said.split()[1].removesuffix(":")
    assert said.splitlines()[-1].startswith("detached: the job goes on, ")
    assert scontrol("show", "job", job)[0]["JobState"] == "RUNNING"
    run("scancel", job)
    code, lines = followed(job, log_of(job, tmp_path))
    assert code != 0
    assert "CANCELLED" in lines[-1]
    assert any("stopped by SIGTERM after step 5, which is saved" in line for line in lines), lines
    time.sleep(3)
    assert scontrol("show", "job", job)[0]["JobState"] == "CANCELLED"


@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_a_killed_task_ends_the_job_and_who_follows_it(cluster, data, tmp_path):
    command = words(data, tmp_path, "--nodes=2", "--time=30", "--follow")
    done = finished("python", "launch/slurm.py", *command, fault="kind=SIGKILL,rank=1,step=4")
    lines = done.stdout.splitlines()
    assert done.returncode not in (0, 75), done.stdout
    assert any("rank 1" in line for line in lines), done.stdout  # who has died, in the words of the one that is left
    assert "FAILED" in lines[-2]
    assert lines[-1].startswith("log     ")


@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_the_elements_of_an_array_have_nothing_to_do_with_each_other(undisturbed, data, tmp_path):
    said = launched(data, tmp_path, "--array=0,3,5%2", "--follow", "name=run-%a", "seed=%a").splitlines()
    job = said[0].split()[1].removesuffix(":")
    ended = {line.split()[1] for line in said if line.endswith("COMPLETED, exit code 0")}
    assert ended == {f"{job}_{number}:" for number in (0, 3, 5)}, said
    results = {}
    for number in (0, 3, 5):
        environment = json.loads((tmp_path / f"run-{number}" / "env.json").read_text())
        assert environment["world"] == 2
        log = (tmp_path / "slurm" / f"{job}_{number}_0_log.out").read_text()
        assert f"run-{number}: classifier on 2 x CPU" in log
        results[number] = [record.get("train/loss") for record in records(tmp_path / f"run-{number}", "classifier")]
    assert_same(tmp_path / "run-0", undisturbed[0], "classifier")
    assert results[3] != results[5] != results[0] != results[3]


@pytest.mark.slurm
def test_a_rejected_job_is_told_in_the_words_of_slurm(cluster, data, tmp_path, capsys):
    assert main(words(data, tmp_path, "--nodes=2", "--time=30", "--partition=gpu")) == 1
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


OTHERS = ["--sbatch=gres=nvme:1,gpu:a100:4", "--sbatch", "exclusive", "--sbatch=mail-user=me", "--sbatch=mail_user=you"]
SRUN = ["--srun=--container-image=/images/py 3.sqsh", "--srun=--container-mounts=/data"]


def test_options_of_sbatch_and_srun_by_name(home, data, tmp_path, capsys):
    """Those that there is no option for here: --sbatch and --srun, also in the site's file."""
    (home / SITE).write_text("sbatch: [reservation=mine, mail-user=site]\nsrun: [--mpi=none]\n")
    assert main(words(data, tmp_path, "--time=9", *OTHERS, *SRUN, "--dry-run")) == 0
    lines = capsys.readouterr().out.splitlines()
    for flag in ("gres=nvme:1,gpu:a100:4", "exclusive", "mail-user=you", "reservation=mine", "ntasks-per-node=4"):
        assert f"#SBATCH --{flag}" in lines, lines
    assert not any("gpus-per-node" in line for line in lines), "SLURM would have two numbers to choose from"
    (command,) = [shlex.split(line) for line in lines if line.startswith("srun ")]
    place = command.index("--mpi=none")
    assert command[place + 1 : place + 3] == ["--container-image=/images/py 3.sqsh", "--container-mounts=/data"]


@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_options_by_name_arrive_at_slurm(cluster, data, tmp_path, home):
    """In a reservation, with the nodes to itself, under a lower priority; what srun is told reaches the tasks."""
    run("scontrol", "create", "reservation", "reservationname=mine", "starttime=now", "duration=30",
        f"users={getpass.getuser()}", "nodes=a1,a2", "flags=ignore_jobs")  # fmt: skip
    try:
        (home / SITE).write_text("sbatch: [reservation=mine, nice=3]\n")
        others = ["--sbatch=exclusive", "--sbatch=nice=77", "--srun=--export=ALL,SLURM_JOB_TOLD=by srun"]
        job = submitted(data, tmp_path, *others)
        shown = scontrol("show", "job", job)[0]
        assert (shown["Reservation"], shown["Nice"], shown["OverSubscribe"]) == ("mine", "77", "NO")
        code, said = followed(job, log_of(job, tmp_path))
        assert code == 0, "\n".join(said)
        environment = json.loads((tmp_path / "run" / "env.json").read_text())
        assert environment["slurm"]["SLURM_JOB_TOLD"] == "by srun"
    finally:
        run("scontrol", "delete", "reservationname=mine")


def test_the_script_of_an_array_with_torchrun(data, tmp_path, capsys):
    options = ("--nodes=2", "--gpus-per-node=8", "--cpus-per-task=6", "--time=9", "--torchrun", "--array=1,3-5%2")
    assert main([*words(data, tmp_path, *options, "--dry-run"), "name=run-%a"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for flag in ("array=1,3-5%2", "ntasks-per-node=1", "gpus-per-node=8", "cpus-per-task=48"):
        assert f"#SBATCH --{flag}" in lines
    assert "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-6}" in lines
    assert any("/slurm/%A_%a_%t_log.out" in line for line in lines if line.startswith("srun "))
    assert lines[-1].startswith("# each task: torchrun --nnodes=2 --nproc-per-node=8 -m dist_rmd.train ")
    assert lines[-1].endswith(" name=run-%a")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-4%2", [0, 1, 2, 3, 4]), ("1,3,7", [1, 3, 7]), ("7,1-3", [1, 2, 3, 7]), ("0-9:3%1", [0, 3, 6, 9]), ("5", [5])],
)
def test_elements_of_an_array(home, text, numbers):
    assert arguments(["--array", text, "CONFIG"]).array == (text, numbers)


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
        ("account: [", "not valid YAML: while parsing"),
        ("account: a\naccount: b", "key 'account' is given twice (lines 1 and 2)"),
        ("account:", "account=null: expected a text"),
        ("sbatch: [time=9]", "argument --sbatch: time is an option of its own: --time"),
        ("sbatch: {gres: gpu}", "sbatch={gres: gpu}: expected a text"),
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
        (["--sbatch=time=9"], "argument --sbatch: time is an option of its own: --time"),
        (["--sbatch=signal=USR1"], "argument --sbatch: signal is what stopping, going on and following a job rest on"),
        (["--sbatch=ntasks=9"], "argument --sbatch: ntasks follows from the nodes and the tasks on each"),
        (["--sbatch=gres="], "argument --sbatch: 'gres=' is not of the form NAME or NAME=VALUE, as sbatch has them"),
        (["--sbatch=-p gpu"], "argument --sbatch: '-p gpu' is not of the form NAME or NAME=VALUE"),
        (["--srun=label"], "argument --srun: 'label' is no option of srun: --srun=--NAME=VALUE"),
        (["--sbatch=gres=gpu:4", "--gpus-per-node=4"], "--gpus-per-node and --sbatch gres=gpu:...: both say how"),
        (["--sbatch=gres=gpu:4", "--tasks-per-node=4"], "--sbatch gres=gpu:... and --tasks-per-node: there is one"),
        (["--dry-run"], "--time is missing: "),
        (["--time=9"], "sbatch is not in PATH: "),
        (["--nodes=0"], "argument --nodes: '0' is not a positive whole number"),
        (["--gpus-per-node=2", "--tasks-per-node=2"], "--gpus-per-node and --tasks-per-node: "),
        (["--local", "--nodes=2"], "--local: it is one machine"),
        (["--local", "--torchrun"], "--local: it is one machine"),
        (["--array=0-x"], "argument --array: '0-x' is no list of numbers such as "),
        (["--array=3-1"], "argument --array: '3-1' has no elements"),
        (["--array=0-2", "--time=9", "--dry-run"], "--array: all elements would write into "),
        (["--time=9", "--dry-run", "comment=%a"], "%a stands for the number of a job array's element: it needs --arr"),
        (["--time=9", "--dry-run", "task.rl=1"], "unknown key 'task.rl'"),
        (["--gpus=1"], "--gpus=1: there is no such option; a key is given without dashes: gpus=1"),
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
