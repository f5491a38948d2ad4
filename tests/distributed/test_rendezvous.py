"""How a process learns its place, from torchrun, srun or nothing, and meets the others."""

import os
import shlex
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist
from support.torchrun import child_environment

from dist_rmd.distributed import rendezvous
from dist_rmd.distributed.launcher import on_this_machine, torchrun_command
from dist_rmd.errors import ConfigError, LostPeer

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    for name in list(os.environ):
        if name in NAMES or name.startswith("SLURM_"):
            monkeypatch.delenv(name)

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return put


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_plain_start(environment):
    assert rendezvous.place() == (0, 1, 0, 1)


def test_torchrun(environment):
    environment(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4, MASTER_ADDR="a", MASTER_PORT=1)
    world = rendezvous.place()
    assert (world.rank, world.size, world.local_rank, world.local_size) == (5, 8, 1, 4)


@pytest.mark.parametrize(
    "left",
    [
        {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "gone", "MASTER_PORT": 1},  # what PyTorchJob says of one process
        {"WORLD_SIZE": 1},
        {"MASTER_ADDR": "gone", "MASTER_PORT": 1, "LOCAL_RANK": 3},
        {"SLURM_PROCID": 0, "SLURM_NTASKS": 4, "SLURM_JOB_ID": 1},  # in a batch script's shell
        {"SLURM_STEP_NUM_TASKS": 1, "SLURM_PROCID": 0},
        {"WORLD_SIZE": 1, "RANK": 0, "SLURM_STEP_NUM_TASKS": 2, "SLURM_PROCID": 1},  # torchrun within srun
    ],
)
def test_one_process_is_one_whatever_else_the_environment_says(environment, left):
    environment(**left)
    assert rendezvous.place() == (0, 1, 0, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": ""},
            r"LOCAL_RANK.*MASTER_ADDR.*start with torchrun, or unset both",
        ),
        ({"RANK": "a", "WORLD_SIZE": 2}, "RANK=a in the environment: not the whole number"),
        ({"RANK": 2, "WORLD_SIZE": 2}, "RANK=2, WORLD_SIZE=2: a rank must be less than the number of ranks"),
        ({"RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": "x"}, "MASTER_PORT=x"),
        ({"SLURM_STEP_NUM_TASKS": 2}, "SLURM_PROCID= in the environment"),
        ({"SLURM_STEP_NUM_TASKS": 2, "SLURM_PROCID": 0, "SLURM_LOCALID": 0, "SLURM_JOB_ID": ""}, "SLURM_JOB_ID="),
    ],
)
def test_a_broken_environment_is_one_line(environment, given, words):
    whole = (
        {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "a", "MASTER_PORT": 1}
        if "LOCAL_RANK" not in given
        else {}
    )
    environment(**(whole if "RANK" in given else {"MASTER_ADDR": "a"}) | given)
    with pytest.raises(ConfigError, match=words):
        rendezvous.place()


def test_ranks_of_one_node_need_no_name_for_it(environment):
    environment(SLURM_STEP_NUM_TASKS=2, SLURM_PROCID=1, SLURM_LOCALID=1, SLURM_STEP_TASKS_PER_NODE=2, SLURM_JOB_ID=7)
    environment(SLURM_STEP_NUM_NODES=1, SLURM_JOB_NODELIST="nowhere", MASTER_PORT=1, MASTER_ADDR="")
    del os.environ["MASTER_ADDR"]
    assert rendezvous.place() == (1, 2, 1, 2)
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(("rank", "missing"), [(0, "rank 1, 2, not started yet"), (1, "rank 0, which does not answer")])
@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_whoever_waits_for_ranks_that_nobody_started_says_so(environment, launcher, rank, missing):
    environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    if launcher == "srun":
        environment(SLURM_STEP_NUM_TASKS=3, SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_JOB_ID=77)
        environment(SLURM_STEP_TASKS_PER_NODE=3)
        variables = f"SLURM_PROCID={rank}, SLURM_STEP_NUM_TASKS=3"
    else:
        environment(RANK=rank, WORLD_SIZE=3, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=3)
        variables = f"RANK={rank}, WORLD_SIZE=3"
    script = "from dist_rmd.distributed import rendezvous as r; r.SILENCE = 0.3; r.meet(*r.place()[:2])"
    with subprocess.Popen(
        [sys.executable, "-c", script], env=child_environment(), stderr=subprocess.PIPE, text=True
    ) as waits:
        said = next(line for line in waits.stderr if line.startswith("rank"))
        waits.kill()
    assert said.startswith(f"rank {rank} of 3 waits for {missing}")
    assert said.endswith(f" (told to by {variables}: unset them to train on one process)\n")


def test_ranks_of_one_machine_start_where_its_name_means_nothing():
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun_command(["--help"], *on_this_machine(2))]
    script = f"hostname no-such-name && exec {shlex.join(command)}"
    done = subprocess.run(
        ["unshare", "--uts", "sh", "-c", script], env=child_environment(), capture_output=True, text=True, timeout=100
    )
    if "unshare" in done.stderr:
        pytest.skip(f"no host name of its own here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: dist-rmd train") == 2


def test_srun(environment, monkeypatch, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[1-2]" ] && printf "n1\\nn2\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    slurm = {"PROCID": 3, "STEP_NUM_TASKS": 4, "LOCALID": 1, "STEP_TASKS_PER_NODE": "2(x2)", "JOB_NODELIST": "n[1-2]"}
    environment(**{f"SLURM_{name}": value for name, value in slurm.items()}, SLURM_JOB_ID=77, SLURM_RESTART_COUNT=0)
    monkeypatch.setenv("MASTER_ADDR", "")
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.setenv("MASTER_PORT", "")
    monkeypatch.delenv("MASTER_PORT")  # both are put back after the test
    world = rendezvous.place()
    assert (world.rank, world.size, world.local_rank, world.local_size) == (3, 4, 1, 2)
    assert os.environ["MASTER_ADDR"] == "n1"
    first = os.environ.pop("MASTER_PORT")
    environment(SLURM_RESTART_COUNT=1)
    rendezvous.place()
    assert os.environ["MASTER_PORT"] != first  # a requeued job must not meet the killed one's port


def test_a_restart_does_not_see_what_the_ranks_before_it_left():
    """torchrun's store outlives the ranks.  Whoever comes first finds everything that the dead ones wrote."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)

    def start(rank: int, delay: float) -> dist.Store:
        client = dist.TCPStore("127.0.0.1", store.port, is_master=False)
        time.sleep(delay)
        return rendezvous.unused(client, rank, 3)

    for delays in [(0, 0, 0), (0, 0.2, 0.1), (0.3, 0.1, 0), (0.1, 0, 0.2)]:
        with ThreadPoolExecutor(3) as ranks:
            parts = list(ranks.map(start, range(3), delays))
        assert not parts[0].check(["address/1"])
        parts[1].set("address/1", "here")
        assert [part.get("address/1") for part in parts] == [b"here"] * 3


def test_a_rank_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(rendezvous, "START", 0.1)
    store = dist.HashStore()
    with pytest.raises(LostPeer, match=r"rank 1 of 2 has not started within 0\.1 s"):
        rendezvous.unused(store, 0, 2)
    with pytest.raises(LostPeer, match="another rank of 2 has not started"):
        rendezvous.unused(store, 1, 2)
