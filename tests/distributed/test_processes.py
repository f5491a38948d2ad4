"""Devices, threads and the process group."""

import os
import subprocess
import sys

import pytest
import torch
from support.forked import on_ranks
from support.torchrun import child_environment
from torch import nn

from dist_rmd.config import Distributed
from dist_rmd.distributed import processes
from dist_rmd.errors import ConfigError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def alone(monkeypatch):
    for name in list(os.environ):
        if name in NAMES or name.startswith("SLURM_"):
            monkeypatch.delenv(name)


def test_plain_start(alone):
    world = processes.detect("cpu")
    assert (world.rank, world.size, world.leads, world.device) == (0, 1, True, torch.device("cpu"))
    assert world.cores == len(os.sched_getaffinity(0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")
def test_a_missing_gpu_is_named(alone):
    with pytest.raises(ConfigError, match="no GPU here"):
        processes.detect("cuda")


def test_one_process_needs_no_group():
    world = processes.detect("cpu")
    net = processes.place(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), world, sync_batchnorm=True)
    assert type(net[1]) is nn.BatchNorm2d
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert processes.parallel(net, world, Distributed()) is net


@pytest.mark.parametrize("chosen", [None, "1"])
def test_threads_are_the_cores_or_the_users_choice(tmp_path, chosen):
    """torchrun hands OMP_NUM_THREADS=1 on to its ranks in any case."""
    rank = tmp_path / "rank.py"
    rank.write_text(
        "import torch\n"
        "from dist_rmd.distributed import processes\n"
        "world = processes.detect('cpu')\n"
        "processes.start(world, timeout=60)\n"
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
