"""What relation-guided learning adds to cross entropy: the teacher's forward pass and the relation loss."""

import functools
from collections.abc import Iterator

import torch

from dist_rmd.stages.rgrl import RGRL
from tools.bench_parts.loop import Epochs
from tools.bench_parts.settings import Settings
from tools.bench_parts.step import on, phases, split
from tools.bench_parts.tables import Row, Table
from tools.bench_parts.timing import Way, gpu_peak, tried, turns
from tools.scaling_model import count

CE, BOTH, TEACHER = "CE", "CE + RGRL", "the teacher's forward alone"


def measure(settings: Settings) -> Iterator[Table]:
    for batch in settings.batches:
        yield from one(settings, batch)


def one(settings: Settings, batch: int) -> Iterator[Table]:
    """The tables of one batch size, with the paper's network on any device: shares of a step depend on its size."""
    steps = settings.steps(batch, 1, 40, 2)
    name, width = settings.network if settings.quick else ("resnet18", 64)
    options = (*on(settings), f"model.name={name}", f"model.width={width}")
    makers = {
        CE: functools.partial(Epochs, settings, "classifier", steps, batch, options),
        BOTH: functools.partial(Epochs, settings, "rgrl", steps, batch, options),
    }
    for option in settings.options:
        for name, stage in ((CE, "classifier"), (BOTH, "rgrl")):
            makers[f"{name}, {option}"] = functools.partial(Epochs, settings, stage, steps, batch, (*options, option))
    epochs, failed = tried(makers)
    ways: dict[str, Way] = {**epochs, **(parts(epochs[BOTH], steps) if BOTH in epochs else {})}
    for added in ways.keys() - epochs.keys():
        ways[added]()
    peaks = {name: gpu_peak(way, settings.device) for name, way in ways.items()}
    times = turns(ways, settings.rounds, settings.device, least=0.0 if settings.quick else 0.05)
    ce_flops, rgrl_flops = (count(stage, batch, *options).flops for stage in ("classifier", "rgrl"))
    share = rgrl_flops / ce_flops - 1
    expected = {CE: "1", BOTH: f"{1 + share:.3g}", TEACHER: f"{share:.3g}"}
    absent = [Row(name, absent=why) for name, why in failed.items()]
    about = f"{name}, width {width}, batch {batch}, {settings.precision}, {' '.join(on(settings))}."
    yield Table(
        f"RGRL beside CE, batch {batch}",
        f"{about} A step each. times as long: as a step of CE. FLOPs: the same ratio as counted, which leaves out what "
        "is no convolution or matrix product, and the relation loss.",
        absent
        + [
            Row(
                name, [t / steps for t in times[name]], None if name == CE else CE,
                batch if name in epochs else 0,
                facts=({"FLOPs": expected[name]} if name in expected else {}) | peaks[name],
            )
            for name in ways
        ],
        ratio="times as long",
    )  # fmt: skip
    splits = split(epochs, settings.rounds, steps)
    yield Table(
        f"Where the time goes with RGRL, batch {batch}",
        f"{about} In ms, the device waited for after each phase. The teacher and the relation loss, gradient included, "
        "are in forward.",
        [Row(name, facts=phases(splits[name])) for name in epochs],
    )


def parts(epochs: Epochs, steps: int) -> dict[str, Way]:
    """What RGRL adds to a step, each as often as in an epoch."""
    assert isinstance(epochs.stage, RGRL)
    teacher, relation = epochs.stage.teacher, epochs.stage.relation
    given = next(epochs.batches.epoch(0))
    view = given.views[0]
    with torch.no_grad(), epochs.updater.autocast():
        targets = teacher(view)
    student = torch.randn_like(targets, dtype=torch.float32).relu().requires_grad_()

    def look() -> None:
        for _ in range(steps):
            with torch.no_grad(), epochs.updater.autocast():
                teacher(view)

    def relate() -> None:
        for _ in range(steps):
            torch.autograd.grad(relation(targets, student, given.sizes).loss, student)

    return {TEACHER: look, "the relation loss alone, with its gradient": relate}
