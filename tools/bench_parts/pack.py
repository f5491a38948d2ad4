"""Several small runs at once on one device, as `dist-rmd sweep --pack N` starts them, beside one alone."""

import multiprocessing
import random
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import torch

from tools.bench_parts.loop import Epochs
from tools.bench_parts.settings import Settings
from tools.bench_parts.step import ON
from tools.bench_parts.tables import Row, Table
from tools.bench_parts.timing import seconds

BATCH = 64
"""of the paper's second stage, of which a table has hundreds of cells"""
LIMIT = 900.0


def measure(settings: Settings) -> Iterator[Table]:
    counts = (1, 2, 4, 8) if settings.gpu and not settings.quick else (1, 2)
    steps = settings.sized(8, 100, 1)
    spawn = multiprocessing.get_context("spawn")
    barriers = {count: spawn.Barrier(count) for count in counts}
    pipes = []
    runs = []
    for _ in range(max(counts)):
        ours, theirs = spawn.Pipe()
        run = spawn.Process(target=serve, args=(settings, steps, theirs, barriers), daemon=True)
        run.start()
        theirs.close()  # or the pipe would stay open when the run dies
        pipes.append(ours)
        runs.append(run)
    try:
        for pipe in pipes:
            answer(pipe)  # built and warm
        times: dict[int, list[float]] = {count: [] for count in counts}
        draw = random.Random(0)
        for _ in range(settings.rounds):
            for count in draw.sample(counts, len(counts)):
                for pipe in pipes[:count]:
                    pipe.send(count)
                spans = [answer(pipe) for pipe in pipes[:count]]
                # By time.monotonic(), which all processes of a machine share: from the first start to the last end.
                times[count].append((max(end for _, end in spans) - min(start for start, _ in spans)) / count)
    finally:
        for run in runs:
            run.kill()
    network = "{}, width {}".format(*settings.network)
    yield Table(
        "Several runs at once on one device",
        f"Runs of stage classifier, {network}, batch {BATCH}, {settings.precision}, images in memory, {steps} steps "
        f"each{'' if settings.gpu else f'; {settings.cores} CPU cores, divided among them'}. ms: of a step, divided by "
        "the runs at once; images/s: of all runs together.",
        [
            Row(
                "1 run" if count == 1 else f"{count} runs at once",
                [t / steps for t in times[count]],
                None if count == 1 else "1 run",
                BATCH,
            )
            for count in counts
        ],
    )


def serve(settings: Settings, steps: int, pipe: Connection, barriers: dict[int, Barrier]) -> None:
    """One of the runs: told how many there are, it answers when its own epoch began and ended."""
    epochs = Epochs(settings, "classifier", steps, BATCH, ON)
    seconds(epochs, settings.device)
    pipe.send((0.0, 0.0))  # ready
    while True:
        count = pipe.recv()
        if not settings.gpu:
            torch.set_num_threads(max(1, settings.cores // count))
        barriers[count].wait()
        began = time.monotonic()
        seconds(epochs, settings.device)
        pipe.send((began, time.monotonic()))


def answer(pipe: Connection) -> tuple[float, float]:
    """Raises RuntimeError where a run has died or is silent: its own message is on stderr."""
    if not pipe.poll(LIMIT):
        raise RuntimeError(f"a run has said nothing for {LIMIT:g} s")
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError("a run has died") from error
