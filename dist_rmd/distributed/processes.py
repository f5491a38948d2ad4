"""Ranks, devices and the process group, and networks on all ranks: placement, DDP, shared buffers."""

import contextlib
import gc
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from dist_rmd.config import Distributed
from dist_rmd.distributed import rendezvous
from dist_rmd.distributed import sync_batchnorm as batchnorm
from dist_rmd.distributed.launcher import LAUNCHER
from dist_rmd.distributed.rank_group import RankGroup
from dist_rmd.errors import ConfigError


@dataclass(frozen=True)
class World:
    """The rank of this process, in [0, size), and its local rank on its own machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True on rank 0, which prints and writes files."""
        return self.rank == 0

    @property
    def cores(self) -> int:
        """Number of CPU cores for this rank: the usable cores, divided by the number of ranks on this machine."""
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, available // self.local_size)


def detect(device: str) -> World:
    """Read rank and size from the environment and choose the device.  Starts nothing.

    `device` is auto, cuda or cpu.  Raises ConfigError when the environment contradicts itself or the GPU is missing.
    """
    found = rendezvous.place()
    return World(*found, _device(device, found.local_rank, found.local_size))


def start(world: World, timeout: float) -> RankGroup:
    """Join the process group (NCCL on GPUs, gloo on CPUs) and set this process's device and threads.

    `timeout`: seconds after which a collective that some rank does not join fails.
    """
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    elif not _threads_chosen():
        torch.set_num_threads(world.cores)
    if world.size == 1:
        return RankGroup(0, 1, timeout)
    gpu = world.device.type == "cuda"
    store = rendezvous.meet(world.rank, world.size)
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        store=store,
        rank=world.rank,
        world_size=world.size,
        # NCCL kills a process after its timeout.  The CPU group's timeout is shorter, since it can name the lost rank.
        timeout=timedelta(seconds=2 * timeout if gpu else timeout),
        device_id=world.device if gpu else None,
    )
    return RankGroup(world.rank, world.size, timeout, store)


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        gc.collect()  # a DDP network still waiting for collection would keep gloo's threads alive, which abort at exit
        dist.destroy_process_group()


def share_buffers(net: nn.Module) -> None:
    """Give all ranks the running statistics of rank 0, so that all evaluate the same network."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, src=0)


def place(
    net: nn.Module, world: World, sync_batchnorm: bool, dtype: torch.dtype = torch.float32, compiled: bool = False
) -> nn.Module:
    """Move `net` to this rank's device in channels_last, with global batch statistics if asked for and ranks > 1.

    `dtype` is that of its parameters.  compiled: where torch.compile is to fuse its layers, GPUs normalise as CPUs do.
    """
    if world.size > 1 and sync_batchnorm:
        eager_gpu = world.device.type == "cuda" and not compiled and batchnorm.is_plain(net)
        convert = nn.SyncBatchNorm.convert_sync_batchnorm if eager_gpu else batchnorm.convert
        net = convert(net)
    return net.to(world.device, dtype).to(memory_format=torch.channels_last)


def parallel(net: nn.Module, world: World, config: Distributed) -> nn.Module:
    """Wrap a placed `net` so that gradients are averaged over ranks, and all hold the first rank's buffers.

    Of an nn.ModuleDict, each network is wrapped by itself.  Buffers are sent at every step only where ranks have batch
    statistics of their own: statistics over all ranks are the same numbers on each.
    """
    if world.size == 1:
        return net
    if isinstance(net, nn.ModuleDict):
        return nn.ModuleDict({name: parallel(part, world, config) for name, part in net.items()})
    wrapped = DistributedDataParallel(
        net,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=config.static_graph,
    )
    wrapped.broadcast_buffers = not config.sync_batchnorm  # an argument of this name is deprecated from torch 2.14 on
    if config.compress == "bf16":
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def _threads_chosen() -> bool:
    """The user has set OMP_NUM_THREADS; torchrun itself sets it to 1 for several processes, whatever the cores."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with contextlib.suppress(OSError):  # what torchrun was started with, which is not what it hands on
            return b"\0OMP_NUM_THREADS=" in b"\0" + Path(f"/proc/{LAUNCHER}/environ").read_bytes()
    return "OMP_NUM_THREADS" in os.environ


def _device(device: str, local_rank: int, local_size: int) -> torch.device:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and gpus == 0):
        return torch.device("cpu")
    if gpus == 0:
        raise ConfigError("device=cuda, but torch sees no GPU here: use device=cpu, or see what nvidia-smi says")
    if local_size > gpus:
        raise ConfigError(
            f"{local_size} processes on this machine, but it has {gpus} GPU(s): start one for each, or use device=cpu"
        )
    return torch.device("cuda", local_rank)
