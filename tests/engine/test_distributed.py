"""How a process learns its place, from torchrun, srun or nothing."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
from support.torchrun import child_environment, on_ranks
from torch import nn

from dist_rmd.config import Distributed
from dist_rmd.engine import distributed
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


def test_plain_start(environment):
    world = distributed.detect("cpu")
    assert (world.rank, world.size, world.leads, world.device) == (0, 1, True, torch.device("cpu"))
    assert world.cores == len(os.sched_getaffinity(0))


def test_torchrun(environment):
    environment(RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4, MASTER_ADDR="a", MASTER_PORT=1)
    world = distributed.detect("cpu")
    assert (world.rank, world.size, world.local_rank, world.local_size, world.leads) == (5, 8, 1, 4, False)


def test_half_an_environment_is_refused(environment):
    environment(RANK=0, WORLD_SIZE=2)
    with pytest.raises(ConfigError, match=r"LOCAL_RANK.*MASTER_ADDR.*torchrun"):
        distributed.detect("cpu")


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
    world = distributed.detect("cpu")
    assert (world.rank, world.size, world.local_rank, world.local_size) == (3, 4, 1, 2)
    assert os.environ["MASTER_ADDR"] == "n1"
    first = os.environ.pop("MASTER_PORT")
    environment(SLURM_RESTART_COUNT=1)
    distributed.detect("cpu")
    assert os.environ["MASTER_PORT"] != first  # a requeued job must not meet the killed one's port


def test_a_batch_scripts_own_shell_is_a_plain_start(environment):
    environment(SLURM_PROCID=0, SLURM_NTASKS=4, SLURM_JOB_ID=1)
    assert distributed.detect("cpu").size == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")
def test_a_missing_gpu_is_named(environment):
    with pytest.raises(ConfigError, match="no GPU here"):
        distributed.detect("cuda")


def test_one_process_needs_no_group():
    world = distributed.detect("cpu")
    net = distributed.place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), world, sync_batchnorm=True)
    assert type(net[1]) is nn.BatchNorm2d
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert distributed.parallel(net, world, Distributed()) is net


@pytest.mark.parametrize("chosen", [None, "1"])
def test_threads_are_the_cores_or_the_users_choice(tmp_path, chosen):
    """torchrun hands OMP_NUM_THREADS=1 on to its ranks in any case."""
    rank = tmp_path / "rank.py"
    rank.write_text(
        "import torch\n"
        "from dist_rmd.engine import distributed\n"
        "world = distributed.detect('cpu')\n"
        "distributed.start(world, timeout=60)\n"
        "print(torch.get_num_threads(), world.cores)\n"
    )
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import os, subprocess, sys\n"
        "os.environ |= {'OMP_NUM_THREADS': '1', 'TORCHELASTIC_RUN_ID': 'any'}\n"
        "subprocess.run([sys.executable, sys.argv[1]], check=True)\n"
    )
    env = {name: value for name, value in child_environment().items() if name not in (*NAMES, "OMP_NUM_THREADS")}
    env |= {"OMP_NUM_THREADS": chosen} if chosen else {}
    done = subprocess.run([sys.executable, launcher, rank], env=env, capture_output=True, text=True, check=True)
    threads, cores = map(int, done.stdout.split())
    assert threads == (1 if chosen else cores)


def test_ranks_agree():
    """Gradients are averaged, statistics synchronised, and the leader's decision reaches every rank."""
    on_ranks(2, "distributed")


def test_a_restart_does_not_see_what_the_ranks_before_it_left():
    """torchrun's store outlives the ranks.  Whoever comes first finds everything that the dead ones wrote."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)

    def start(rank: int, delay: float) -> dist.Store:
        client = dist.TCPStore("127.0.0.1", store.port, is_master=False)
        time.sleep(delay)
        return distributed.unused(client, rank, 3)

    for delays in [(0, 0, 0), (0, 0.2, 0.1), (0.3, 0.1, 0), (0.1, 0, 0.2)]:
        with ThreadPoolExecutor(3) as ranks:
            parts = list(ranks.map(start, range(3), delays))
        assert not parts[0].check(["address/1"])
        parts[1].set("address/1", "here")
        assert [part.get("address/1") for part in parts] == [b"here"] * 3


def test_a_rank_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(distributed, "START", 0.1)
    store = dist.HashStore()
    with pytest.raises(LostPeer, match=r"rank 1 of 2 has not started within 0\.1 s"):
        distributed.unused(store, 0, 2)
    with pytest.raises(LostPeer, match="rank 0 of 2 has not started"):
        distributed.unused(store, 1, 2)
