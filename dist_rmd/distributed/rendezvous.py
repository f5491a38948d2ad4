"""Rendezvous: how the processes of a run find each other, started by torchrun, by srun (one task per rank), or alone.

Environment variables tell which launcher it was.  Such variables may be left over from an earlier launcher, so a
process that waits for ranks that nobody started says so, and names the variables.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

import torch.distributed as dist

from dist_rmd.errors import ConfigError, LostPeer

START, SILENCE = 600.0, 10.0
"""seconds within which all ranks must have started, however slow the disk that they are loaded from; and for which
they are waited for without a word"""

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
HERE = "127.0.0.1"


class Place(NamedTuple):
    """Rank in [0, size), and local rank and size on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


ALONE = Place(0, 1, 0, 1)


def place() -> Place:
    """Read this process's rank from the environment; sets MASTER_ADDR and MASTER_PORT.  Raises ConfigError."""
    if os.environ.get("WORLD_SIZE") == "1":  # some schedulers say so of every process, and nothing more
        return ALONE
    if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
        missing = [name for name in (*TORCHRUN, "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            raise ConfigError(
                f"RANK or WORLD_SIZE is set but {', '.join(missing)} is not: start with torchrun, or unset both to "
                "train on one process"
            )
        rank, size, local_rank, local_size = map(_number, TORCHRUN)
        _number("MASTER_PORT")
    elif _number("SLURM_STEP_NUM_TASKS", "1") > 1:  # srun; SLURM_NTASKS is set in a batch script's shell too
        rank, size, local_rank = map(_number, SRUN)
        local_size = int(re.split(r"\D", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))[0] or 1)  # such as 2(x3),1
        rendezvous_from_slurm()
    else:
        return ALONE
    if rank >= size or local_rank >= local_size:
        raise ConfigError(f"{_said()}: a rank must be less than the number of ranks: start with torchrun or srun")
    return Place(rank, size, local_rank, local_size)


def rendezvous_from_slurm() -> None:
    """Set MASTER_ADDR and MASTER_PORT for what srun has started; preset values win.  Raises ConfigError."""
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = HERE if _number("SLURM_STEP_NUM_NODES", "2") == 1 else _first_node()
    # The restart count keeps a requeued job away from a port that the killed one may still hold.
    job, restarts = _number("SLURM_JOB_ID"), _number("SLURM_RESTART_COUNT", "0")
    os.environ.setdefault("MASTER_PORT", str(20000 + (job * 13 + restarts) % 40000))


def meet(rank: int, size: int) -> dist.Store:
    """The store that all ranks share, once all are there.  Raises LostPeer when one has not come after START s."""
    host, port, patience = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timedelta(seconds=START)
    try:
        with _said_later(f"rank {rank} of {size} waits for rank 0, which does not answer at {host}:{port}"):
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun serves it
                served, _, _ = next(dist.rendezvous("env://", rank, size, timeout=patience))
            else:  # without waiting for the others, which `unused` does
                served = dist.TCPStore(host, port, size, rank == 0, patience, wait_for_workers=False, multi_tenant=True)
    except (RuntimeError, OSError) as error:  # torch's own for networks are RuntimeErrors
        reason = " ".join(str(error).split())
        raise LostPeer(f"rank {rank} of {size} cannot meet the others at {host}:{port}: {reason}") from None
    return unused(served, rank, size)


def unused(store: dist.Store, rank: int, size: int) -> dist.Store:
    """A part of `store` that is the same on all ranks, and new.  Raises LostPeer when one has not come after START s.

    torchrun serves one store to all its restarts, with the addresses of ranks that are long dead.  Restarts have no
    number that all machines agree on.  So the leading rank offers a name; every other answers with it and a name of
    its own, and believes the offer once that is confirmed: only the leading rank of this start can know it.
    """
    own, began = uuid.uuid4().hex, time.monotonic()
    spoken = False

    def wait(missing: Callable[[], list[int]]) -> None:
        nonlocal spoken
        passed = time.monotonic() - began
        who = ", ".join(map(str, missing())) if passed > min(SILENCE, START) else ""
        if passed > START:
            raise LostPeer(f"{f'rank {who}' if who else 'another rank'} of {size} has not started within {START:g} s")
        if who and not spoken:
            spoken = True
            _say(f"rank {rank} of {size} waits for rank {who}, not started yet")
        time.sleep(0.02)

    def read(key: str) -> str:
        return store.get(key).decode() if store.check([key]) else ""

    if rank == 0:
        store.set("offer", own)
        for other in range(1, size):
            while not (answer := read(f"answer/{other}")).startswith(own):
                wait(lambda: [each for each in range(1, size) if not read(f"answer/{each}").startswith(own)])
            store.set(f"confirmed/{answer}", "")
        return dist.PrefixStore(own, store)
    while True:
        offer = read("offer")
        store.set(f"answer/{rank}", f"{offer}/{own}")
        if store.check([f"confirmed/{offer}/{own}"]):
            return dist.PrefixStore(offer, store)
        wait(lambda: [] if read("offer") else [0])  # one that is there says itself whom it waits for


@contextlib.contextmanager
def _said_later(line: str) -> Iterator[None]:
    """Print `line` if the body of the `with` takes longer than SILENCE."""
    timer = threading.Timer(SILENCE, _say, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(line: str) -> None:
    print(f"{line} (told to by {_said()}: unset them to train on one process)", file=sys.stderr, flush=True)


def _said() -> str:
    """The environment variables that announce several processes."""
    names = TORCHRUN[:2] if "RANK" in os.environ or "WORLD_SIZE" in os.environ else SRUN[:2]
    return ", ".join(f"{name}={os.environ.get(name)}" for name in names)


def _number(name: str, default: str | None = None) -> int:
    text = os.environ.get(name) or default
    if text is None or not text.isdecimal():
        raise ConfigError(f"{name}={text or ''} in the environment: not the whole number that torchrun and srun set")
    return int(text)


def _first_node() -> str:
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    try:
        command = ["scontrol", "show", "hostnames", nodes]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ConfigError(f"scontrol cannot expand the node list {nodes!r} ({error}): set MASTER_ADDR") from None
