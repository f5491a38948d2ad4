"""The scaling model against this machine: constants from steps without exchange and from sums over ranks."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.distributed as dist

from dist_rmd.distributed import processes
from dist_rmd.distributed.collectives import all_reduce_sum
from dist_rmd.distributed.rank_group import RankGroup
from tools.bench_parts.loop import Epochs
from tools.bench_parts.ranks import on_ranks
from tools.bench_parts.settings import Settings
from tools.bench_parts.step import ON
from tools.bench_parts.tables import Row, Table, short
from tools.bench_parts.timing import turns
from tools.scaling_model import Link, Machine, count, step

RANKS = 2
SMALL, LARGE = 4096, 2**24
"""bytes of sums over ranks that tell latency and bandwidth apart; CPUs gather the small ones"""
SIDE = 384
"""of the matrices that are multiplied before each small one: about as much work as lies between two in a step"""
LOCAL = "dist.sync_batchnorm=false"
SILENT, SILENT_HALF = "without exchange", "without exchange, half the batch"
WAYS = {
    "same global batch": (1, ()),
    "same batch per rank": (RANKS, ()),
    "same global batch, batch statistics of each rank": (1, (LOCAL,)),
}
"""way -> times the global batch, and options"""


def measure(settings: Settings) -> Iterator[Table]:
    title = f"The model of docs/scaling.md against {RANKS} ranks"
    if settings.gpu and torch.cuda.device_count() < RANKS:
        yield Table(title, "", [Row(f"{RANKS} ranks", absent="left out, there is one GPU")])
        return
    steps, batch = settings.sized(4, 40, 2), settings.batch
    name, width = settings.network
    found: dict[str, list[float]] = {}
    for _ in range(max(1, settings.rounds // 2)):
        for what, seconds in on_ranks(RANKS, on_each_rank, settings, steps).items():
            found.setdefault(what, []).append(seconds)
    seen = {what: statistics.median(times) for what, times in found.items()}
    work = count("simsiam", batch, f"model.name={name}", f"model.width={width}")
    each = max(1e-9, (seen[SILENT] - seen[SILENT_HALF]) / (batch / RANKS))  # seconds of an image
    fixed = max(0.0, seen[SILENT] - batch * each)
    small = max(1e-9, seen["work and small"] - seen["work"])
    wire = Link(small / 2, LARGE / max(1e-9, seen["large"] - small))
    machine = Machine("this one", work.flops / each, 0.0, math.inf, RANKS, wire, wire)
    rows = []
    for what, (times, options) in WAYS.items():
        terms = step(replace(work, batch=times * batch), machine, RANKS, synchronised=not options)
        predicted = fixed + sum(terms.values())
        facts = {"predicted ms": short(1e3 * predicted), "predicted / measured": f"{predicted / seen[what]:.2f}"}
        rows.append(Row(what, found[what], images=times * batch, facts=facts))
    yield Table(
        title,
        f"SimSiam, {name}, width {width}, global batch {batch}, or {batch} on each rank. Constants from "
        f"ranks that exchange nothing: {short(1e3 * fixed)} ms a step and {short(1e3 * each)} ms an image "
        f"({short(machine.flops / 1e9)} GFLOP/s); "
        f"from sums over {RANKS} ranks: {short(1e6 * small)} us for {SMALL} bytes between two pieces of work of "
        f"{short(1e3 * seen['work'])} ms, {short(wire.bandwidth / 1e6)} MB/s.",
        rows,
    )


def on_each_rank(settings: Settings, steps: int) -> dict[str, float]:
    """What -> the slowest rank's seconds: of a step, with the others and without, and of sums."""
    peers = processes.start(processes.detect(settings.device), timeout=600)
    try:
        return _seconds(settings, steps, peers)
    finally:
        processes.stop()


def _seconds(settings: Settings, steps: int, peers: RankGroup) -> dict[str, float]:
    batch = settings.batch
    ways = {
        what: Epochs(settings, "simsiam", steps, times * batch, (*ON, *options), peers)
        for what, (times, options) in WAYS.items()
    }
    # Beside one another, since processors that share a core, caches or memory slow each other down.
    for what, size in ((SILENT, RANKS * batch), (SILENT_HALF, batch)):
        ways[what] = Epochs(settings, "simsiam", steps, size, (*ON, LOCAL), peers, exchange=False)
    seconds = {what: statistics.median(times) / steps for what, times in turns(ways, 3, settings.device).items()}
    small, large = (torch.zeros(size // 4, device=settings.device) for size in (SMALL, LARGE))
    matrix = torch.ones(SIDE, SIDE, device=settings.device)
    # A rank that has just computed is slower to send and to notice what came than one that does nothing else.
    talk = {
        "work": lambda: matrix @ matrix,
        "work and small": lambda: (matrix @ matrix, all_reduce_sum(small)),
        "large": lambda: dist.all_reduce(large),
    }
    seconds |= {what: statistics.median(times) for what, times in turns(talk, 9, settings.device).items()}
    return {what: max(peers.gather(own)) for what, own in seconds.items()}
