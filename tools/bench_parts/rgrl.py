"""What relation-guided learning adds to cross entropy: the teacher's forward pass and the relation loss."""

from collections.abc import Iterator

import torch

from dist_rmd.stages.rgrl import RGRL
from tools.bench_parts.loop import Epochs
from tools.bench_parts.settings import Settings
from tools.bench_parts.step import on, phases, split
from tools.bench_parts.tables import Row, Table
from tools.bench_parts.timing import gpu_peak, turns
from tools.scaling_model import count

CE = "CE"


def measure(settings: Settings) -> Iterator[Table]:
    for batch in settings.batches:
        yield from one(settings, batch)


def one(settings: Settings, batch: int) -> Iterator[Table]:
    """The tables of one batch size, with the paper's network on any device: shares of a step depend on its size."""
    steps = settings.sized(1, 40, 2)
    name, width = settings.network if settings.quick else ("resnet18", 64)
    options = (*on(settings), f"model.name={name}", f"model.width={width}")
    ce, rgrl = (Epochs(settings, stage, steps, batch, options) for stage in ("classifier", "rgrl"))
    assert isinstance(rgrl.stage, RGRL)
    teacher, relation = rgrl.stage.teacher, rgrl.stage.relation
    given = next(rgrl.loader.epoch(0))
    view = given.views[0]
    with torch.no_grad(), rgrl.updater.autocast():
        targets = teacher(view)
    student = torch.randn_like(targets, dtype=torch.float32).relu().requires_grad_()

    def look() -> None:
        for _ in range(steps):
            with torch.no_grad(), rgrl.updater.autocast():
                teacher(view)

    def relate() -> None:
        for _ in range(steps):
            torch.autograd.grad(relation(targets, student, given.sizes).loss, student)

    epochs = {CE: ce, "CE + RGRL": rgrl}
    for option in settings.options:
        epochs[f"CE + RGRL, {option}"] = Epochs(settings, "rgrl", steps, batch, (*options, option))
    ways = {**epochs, "the teacher's forward alone": look, "the relation loss alone, with its gradient": relate}
    peaks = {name: gpu_peak(way, settings.device) for name, way in ways.items()}
    times = turns(ways, settings.rounds, settings.device, least=0.0 if settings.quick else 0.05)
    ce_flops, rgrl_flops = (count(stage, batch, *options).flops for stage in ("classifier", "rgrl"))
    share = rgrl_flops / ce_flops - 1
    expected = {CE: "1", "CE + RGRL": f"{1 + share:.3g}", "the teacher's forward alone": f"{share:.3g}"}
    about = f"{name}, width {width}, batch {batch}, {settings.precision}, {' '.join(on(settings))}."
    yield Table(
        f"RGRL beside CE, batch {batch}",
        f"{about} A step each. times as long: as a step of CE. FLOPs: the same ratio as counted, which leaves out what "
        "is no convolution or matrix product, and the relation loss.",
        [
            Row(
                name, [t / steps for t in times[name]], None if name == CE else CE,
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
