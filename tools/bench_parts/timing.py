"""How everything here is timed: all ways in one run, in rounds of random order, after a warm-up."""

import math
import random
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

MIB = 2**20
Way = Callable[[], object]
AnyWay = TypeVar("AnyWay", bound=Way)


def tried(makers: Mapping[str, Callable[[], AnyWay]]) -> tuple[dict[str, AnyWay], dict[str, str]]:
    """Make each way and call it once, in this order.  Returns those that work, and of the others name -> reason.

    A compiler or a library that fails here costs its own row, not the table.
    """
    ways, failed = {}, {}
    for name, make in makers.items():
        try:
            way = make()
            way()
        except Exception as error:
            traceback.print_exc()
            failed[name] = f"failed: {type(error).__name__}: {str(error).strip()}".partition("\n")[0][:200]
        else:
            ways[name] = way
    return ways, failed


def turns(ways: Mapping[str, Way], rounds: int, device: str, least: float = 0.05) -> dict[str, list[float]]:
    """Seconds of one call of each way, one figure a round, on a machine that may be doing other things, too.

    The rounds take the ways in random order, the same on all ranks.  A call that is shorter is repeated until `least`
    seconds have passed, and the mean is taken.
    """
    repeats: dict[str, int] = {}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        seconds(way, device)  # compiles, fills caches, starts workers
        taken = torch.tensor(seconds(way, device), device=device)
        if dist.is_initialized():  # all ranks must repeat as often
            dist.all_reduce(taken, dist.ReduceOp.MAX)
        repeats[name] = max(1, math.ceil(least / taken.item()))
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(ways), len(ways)):
            times[name].append(seconds(ways[name], device, repeats[name]))
    return times


def seconds(way: Way, device: str, repeats: int = 1) -> float:
    """Of one call, until the device is done and, with several ranks, from when all are there."""
    if dist.is_initialized():
        dist.barrier()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(repeats):
        way()
    synchronise(device)
    return (time.perf_counter() - start) / repeats


def synchronise(device: str) -> None:
    """Wait until the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def gpu_peak(way: Way, device: str) -> dict[str, str]:
    """{"peak MiB": what one call needs on top of what is there already}, on GPUs; else nothing.

    `way` has been called before: what only a first call needs does not count.
    """
    if device != "cuda":
        return {}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    way()
    torch.cuda.synchronize()
    return {"peak MiB": f"{(torch.cuda.max_memory_allocated() - before) / MIB:.0f}"}


def resident(field: str) -> int:
    """VmRSS, or VmHWM, its highest value so far, of this process, in bytes."""
    return _kilobytes(Path("/proc/self/status"), field)


def free_memory(device: str) -> int:
    """Bytes that can still be allocated."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _kilobytes(table: Path, field: str) -> int:
    (line,) = [line for line in table.read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


class Stopwatch:
    """Where the time of a training step goes.

    Waits for the device at every mark while it is `running`, so that a phase ends where it ends: for a split only,
    never for a total.
    """

    PHASES = ("data wait", "forward", "backward", "agreement", "optimizer", "rest")

    def __init__(self, device: str):
        self.device, self.running = device, False

    def start(self) -> None:
        """The next phase begins."""
        if self.running:
            synchronise(self.device)
            self._last = time.perf_counter()

    def mark(self, phase: str) -> None:
        """This phase is over, and the next one begins."""
        if self.running:
            synchronise(self.device)
            now = time.perf_counter()
            self.seconds[phase] += now - self._last
            self._last = now

    def split(self, way: Way) -> dict[str, float]:
        """Seconds of each phase in one call."""
        self.running, self.seconds = True, dict.fromkeys(self.PHASES, 0.0)
        try:
            way()
        finally:
            self.running = False
        return self.seconds
