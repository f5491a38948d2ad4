"""Jobs without submitit: launch/train.sbatch, with torchrun inside srun, and a bare srun."""

import json
from pathlib import Path

import pytest
from support.slurm_jobs import HELD, exit_code, followed, run, signalled, wait_until_held, words
from support.torchrun import rank_of, state, wait_for
from support.whole_runs import assert_same, records

AGENT, RANK = "dist_rmd.cluster.agent", "dist_rmd.train"


def batch(*command: str, out: Path, fault: str = "") -> tuple[str, Path]:
    """The id and the log of a job."""
    job = run("sbatch", "--parsable", "--time=30", f"--output={out}/job.log", *command, fault=fault).strip()
    return job, out / "job.log"


def on_two_nodes(data, out, *more, fault=""):
    return batch("--nodes=2", "launch/train.sbatch", *words(data, out), *more, out=out, fault=fault)


def processes(program: str, out: Path) -> list[int]:
    """Those that run `program` with results in `out`."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0") if folder.name.isdecimal() else []
        except OSError:  # has ended
            continue
        if f"out={out}" in command and program in command[:4]:
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(900)
def test_stopped_by_a_signal_it_goes_on_under_its_id_and_ends_with_the_same_bits(undisturbed, data, tmp_path):
    undisturbed, _ = undisturbed
    job, log = on_two_nodes(data, tmp_path, fault=HELD)
    wait_until_held(tmp_path / "run")
    signalled(job, "USR2")
    code, said = followed(job, log)
    assert code == 0, said
    assert said[-1].endswith("COMPLETED, restarts: 1, exit code 0")
    assert f"job {job}: requeued, to go on from its checkpoint" in said
    assert any("going on from epoch 1, step 5" in line for line in said), said
    assert json.loads((tmp_path / "run" / "env.json").read_text())["world"] == 2
    assert_same(tmp_path / "run", undisturbed, "classifier")


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(400)
def test_the_death_of_an_agent_leaves_no_orphans(cluster, data, tmp_path):
    job, log = on_two_nodes(data, tmp_path, "task.epochs=1000")
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), 240)
    agents, ranks = processes(AGENT, tmp_path), processes(RANK, tmp_path)
    ranks = [pid for pid in ranks if rank_of(pid) is not None]
    assert (len(agents), len(ranks)) == (2, 2)
    run("kill", "-KILL", str(agents[0]))
    wait_for(lambda: not any(state(pid) for pid in (*agents, *ranks)), 60)
    run("scancel", job)
    assert followed(job, log)[0] != 0


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("more", "fault", "code"),
    [(["task.rl=1"], "", 2), ([], "kind=nan,rank=1,step=4", 70)],
    ids=["a wrong key", "a loss that is not finite"],
)
def test_the_jobs_exit_code_is_that_of_the_run(cluster, data, tmp_path, more, fault, code):
    options = ("--nodes=1", "--ntasks-per-node=2", "launch/train.sbatch")
    job, log = batch(*options, *words(data, tmp_path), *more, out=tmp_path, fault=fault)
    assert followed(job, log)[0] == code
    assert exit_code(job) == f"{code}:0"


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(300)
def test_an_outcome_of_an_earlier_attempt_is_not_taken_for_this_ones(cluster, data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "exit.json").write_text('{"status": "stopped", "code": 75}')
    job, log = batch("launch/train.sbatch", *words(data / "none", tmp_path), out=tmp_path)
    code, said = followed(job, log)
    assert code == 1, said  # torchrun's
    assert any("error: " in line and "none" in line for line in said), said


@pytest.mark.slurm
@pytest.mark.timeout(400)
def test_a_bare_srun_starts_the_ranks_and_keeps_their_exit_code(cluster, data, tmp_path):
    step = " ".join(["srun", "--ntasks=2", "python", "-m", "dist_rmd.train", *words(data, tmp_path)])
    job, log = batch("--nodes=2", f"--wrap={step}", out=tmp_path, fault="kind=SIGUSR2,rank=1,step=4")
    code, said = followed(job, log)
    assert any("classifier on 2 x CPU" in line for line in said), said
    assert (code, exit_code(job)) == (75, "75:0")
    assert said[-1].endswith("FAILED, exit code 75")
    assert max(record["step"] for record in records(tmp_path / "run", "classifier")) == 5
