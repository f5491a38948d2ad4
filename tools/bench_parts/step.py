"""A training step of SimSiam, from waiting for the data to the optimizer: the product's loop and a plain one."""

import functools
import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from dist_rmd.data.prepared.beton import open_dataset
from tools.bench_parts import peers
from tools.bench_parts.images import pixels
from tools.bench_parts.loop import Epochs
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table, short
from tools.bench_parts.timing import Stopwatch, gpu_peak, tried, turns

OFF = ("data.reader=ffcv", "data.compile_views=false")
ON = ("data.reader=memory", "data.compile_views=true")
"""what the product lets one choose and does not change the training; channels_last and fused SGD are always on"""
COMPILED = "speed.compile=true"
LIGHTLY = "lightly: its ResNet (as many weights as ours), heads, loss and transform in the loop of its example"
PLAIN = "torch alone: our network in the loop of lightly's example, with torchvision's transforms and a DataLoader"


def on(settings: Settings) -> tuple[str, ...]:
    """All that makes training faster on this device; on CPUs, compiling the network does not."""
    return (*ON, COMPILED) if settings.gpu else ON


class Watched(Protocol):
    """An epoch with a stopwatch."""

    watch: Stopwatch

    def __call__(self) -> None: ...


def measure(settings: Settings) -> Iterator[Table]:
    for batch in settings.batches:
        yield from one(settings, batch)


def one(settings: Settings, batch: int) -> Iterator[Table]:
    """The tables of one batch size."""
    steps = settings.steps(batch, 8, 40, 2)
    shown = pixels(open_dataset(settings.data), "train", steps * batch)
    reason = peers.missing("lightly")
    peer, epochs = ("torch alone", peers.plain_epochs) if reason else ("lightly", peers.lightly_epochs)
    base, tricky = f"{peer}, tricks off", f"{peer}, tricks on"
    makers: dict[str, Callable[[], Watched]] = {  # the peers first: their workers fork, and ours has threads
        base: lambda: epochs(settings, shown, batch, tricks=False),
        tricky: lambda: epochs(settings, shown, batch, tricks=True),
        "ours, tricks off": lambda: Epochs(settings, "simsiam", steps, batch, OFF),
        "ours, tricks on": lambda: Epochs(settings, "simsiam", steps, batch, on(settings)),
    }
    for option in ("speed.cuda_graphs=true", *settings.options) if settings.gpu else settings.options:
        makers[f"ours, tricks on, {option}"] = functools.partial(
            Epochs, settings, "simsiam", steps, batch, (*on(settings), option)
        )
    if settings.alone:
        del makers[base], makers[tricky]
    ways, failed = tried(makers)
    peaks = {name: gpu_peak(way, settings.device) for name, way in ways.items()}
    times = turns(ways, settings.rounds, settings.device)
    splits = split(ways, settings.rounds, steps)
    network = "{}, width {}".format(*settings.network)
    about = (
        f"{network}, batch {batch}, {settings.precision}. Epochs of {steps} steps each, start of the loader included. "
    )
    whose = "" if settings.alone else f"{PLAIN if reason else LIGHTLY}; "
    absent = [Row("lightly", absent=reason)] if reason and not settings.alone else []
    absent += [Row(name, absent=why) for name, why in failed.items()]
    yield Table(
        f"A step of SimSiam, batch {batch}",
        f"{about}{whose}tricks: channels_last, torch.compile, fused SGD and, on GPUs, cudnn.benchmark and "
        "asynchronous copies. Ours: the training loop whole, with its checks and meters; tricks: images in memory, "
        f"compiled views{' and network' if settings.gpu else ''}.",
        absent
        + [
            Row(
                name, [t / steps for t in times[name]], None if name == base else base,
                batch, peaks[name],
            )
            for name in ways
        ],
    )  # fmt: skip
    yield Table(
        f"Where the time of a step goes, batch {batch}",
        about + "In ms, in rounds of their own, in which the device is waited for after each phase. agreement: all "
        "ranks make sure that the loss is finite and that nobody wants to stop. rest: meters, console.",
        absent + [Row(name, facts=phases(splits[name])) for name in ways],
    )


def split(ways: Mapping[str, Watched], rounds: int, steps: int) -> dict[str, dict[str, float]]:
    """Seconds of each phase of a step: the median over rounds in random order."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(list(ways), len(ways)):
            found[name].append(ways[name].watch.split(ways[name]))
    return {
        name: {phase: statistics.median(one[phase] for one in all_rounds) / steps for phase in Stopwatch.PHASES}
        for name, all_rounds in found.items()
    }


def phases(seconds: Mapping[str, float]) -> dict[str, str]:
    """Milliseconds of each phase, and its share."""
    whole = sum(seconds.values())
    return {phase: f"{short(1000 * t)} ({t / whole:.0%})" for phase, t in seconds.items()}
