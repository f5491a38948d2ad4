"""One rank and several: the same global batch on more of them, more images on more of them, and what they exchange."""

import random
import statistics
from collections.abc import Iterator

import torch

from dist_rmd.distributed import processes
from dist_rmd.distributed.rank_group import RankGroup
from tools.bench_parts.loop import Epochs
from tools.bench_parts.ranks import on_ranks
from tools.bench_parts.settings import Settings
from tools.bench_parts.step import ON, phases
from tools.bench_parts.tables import Row, Table
from tools.bench_parts.timing import turns

ALONE, SAME, MORE = "1 rank", "same global batch", "same batch per rank"
LOCAL = "same global batch, dist.sync_batchnorm=false"
WITHOUT_GRADIENTS, WITHOUT_STATISTICS = "same global batch, gradients not exchanged", "..., nor batch statistics"


def measure(settings: Settings) -> Iterator[Table]:
    most = torch.cuda.device_count() if settings.gpu else 2
    counts = [2**power for power in range(1, most.bit_length()) if 2**power <= most]
    steps = settings.sized(4, 40, 2)
    network = "{}, width {}".format(*settings.network)
    about = (
        f"SimSiam, {network}, {settings.precision}, {'NCCL' if settings.gpu else 'gloo'}; {settings.cores} CPU cores, "
        f"divided among the ranks. Each round starts all ranks anew, in random order; a step is the median of 3 epochs "
        f"of {steps} steps."
    )
    if not counts:
        yield Table("Ranks", about, [Row("2 ranks", absent=f"left out, there is {most} GPU")])
        return
    found: dict[int, list[dict[str, tuple[float, dict[str, float]]]]] = {ranks: [] for ranks in (1, *counts)}
    draw = random.Random(0)
    rounds = 1 if settings.quick else max(2, settings.rounds // 2)
    for _ in range(rounds):
        for ranks in draw.sample(list(found), len(found)):
            found[ranks].append(on_ranks(ranks, on_each_rank, settings, steps))
    batch = settings.batch
    rows = [_row(ALONE, found[1], SAME, batch, None)]
    splits = [Row(ALONE, facts=_split(found[1], SAME))]
    for ranks in counts:
        name = f"{ranks} ranks, "
        rows += [
            _row(name + SAME, found[ranks], SAME, batch, ALONE),
            _row(name + MORE, found[ranks], MORE, ranks * batch, ALONE),
            _row(name + LOCAL, found[ranks], LOCAL, batch, ALONE),
            _row(name + WITHOUT_GRADIENTS, found[ranks], WITHOUT_GRADIENTS, batch, name + SAME),
            _row(name + WITHOUT_STATISTICS, found[ranks], WITHOUT_STATISTICS, batch, name + SAME),
        ]
        splits += [Row(name + what, facts=_split(found[ranks], what)) for what in (SAME, MORE)]
    yield Table(
        "Ranks",
        f"{about} Global batch {batch}, or {batch} per rank. What a step without the exchange is faster is what "
        "communication costs after overlap. times as fast: of a step; more images per step are in images/s.",
        rows,
    )
    yield Table("Where the time of a step goes, by ranks", f"{about} In ms, on rank 0.", splits)


def on_each_rank(settings: Settings, steps: int) -> dict[str, tuple[float, dict[str, float]]]:
    """Way -> (the slowest rank's seconds of a step, this rank's seconds of each phase)."""
    world = processes.detect(settings.device)
    peers = processes.start(world, timeout=600)
    try:
        return _epochs(settings, steps, peers)
    finally:
        processes.stop()


def _epochs(settings: Settings, steps: int, peers: RankGroup) -> dict[str, tuple[float, dict[str, float]]]:
    batch, ranks, local = settings.batch, peers.size, "dist.sync_batchnorm=false"
    ways = {SAME: Epochs(settings, "simsiam", steps, batch, ON, peers)}
    if ranks > 1:
        ways[MORE] = Epochs(settings, "simsiam", steps, batch * ranks, ON, peers)
        ways[LOCAL] = Epochs(settings, "simsiam", steps, batch, (*ON, local), peers)
        ways[WITHOUT_GRADIENTS] = Epochs(settings, "simsiam", steps, batch, ON, peers, exchange=False)
        ways[WITHOUT_STATISTICS] = Epochs(settings, "simsiam", steps, batch, (*ON, local), peers, exchange=False)
    times = turns(ways, 3, settings.device)
    found = {}
    for name, way in ways.items():
        slowest = max(peers.gather(statistics.median(times[name])))
        found[name] = (slowest / steps, {phase: t / steps for phase, t in way.watch.split(way).items()})
    return found


Found = list[dict[str, tuple[float, dict[str, float]]]]


def _row(name: str, rounds: Found, what: str, images: int, base: str | None) -> Row:
    return Row(name, [found[what][0] for found in rounds], base, images)


def _split(rounds: Found, what: str) -> dict[str, str]:
    return phases({phase: statistics.median(found[what][1][phase] for found in rounds) for phase in rounds[0][what][1]})
