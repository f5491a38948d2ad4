"""What a training step keeps the device and the host busy with, and how far it is from the device's limits."""

import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tools.bench_parts.loop import Epochs
from tools.bench_parts.machine import limits
from tools.bench_parts.settings import Settings
from tools.bench_parts.step import on
from tools.bench_parts.tables import Row, Table, short
from tools.bench_parts.timing import seconds, turns
from tools.scaling_model import count

KINDS = {
    "exchange between ranks": r"nccl|gloo|c10d|all_?reduce|all_?gather",
    "views": r"strong_kernel|weak_kernel",
    "made by torch.compile": r"triton_|cpp_fused",
    "optimizer, norm of the gradient": r"multi_tensor|sgd|adam|foreach|lpnorm",
    "convolutions": r"conv|[dw]grad|fprop|implicit",
    "linear layers, matrix products": r"gemm|mm\b|linear|cutlass|splitk|nvjet",
    "batch normalisation": r"batch_?norm|bn_",
    "ReLU": r"relu|threshold|clamp_min",
    "copies, other types, zeros": r"memcpy|memset|copy|\bcat\b|fill_|zero|empty|to_copy|clone|contiguous",
    "sums, products": r"add|mul|sub|div|sum|mean|elementwise|reduce",
}
"""what is done -> the names of operations and kernels that do it; the first that fits counts"""
COUNTED = ("convolutions", "linear layers, matrix products")
REST = "everything else"
LARGEST = 12
LAUNCHES = r"launchkernel|graphlaunch|memcpyasync|memsetasync"
WAITS = r"streamsynchronize|eventsynchronize|devicesynchronize"


@dataclass
class Found:
    """What one name in the profile comes to, a step."""

    seconds: float
    calls: float


def measure(settings: Settings) -> Iterator[Table]:
    matrix, memory = limits(settings)
    for stage in ("simsiam", "rgrl"):
        for batch in settings.batches:
            yield from one(settings, stage, batch, matrix, memory)


def one(settings: Settings, stage: str, batch: int, matrix: float, memory: float) -> Iterator[Table]:
    """The tables of one stage and batch size; `matrix` in FLOP/s and `memory` in bytes/s are the device's limits."""
    steps = settings.steps(batch, 4, 20, 1)
    name, width = settings.network
    options = (*on(settings), *settings.options)
    epochs = Epochs(settings, stage, steps, batch, options)
    times = turns({stage: epochs}, settings.rounds, settings.device)[stage]
    step = statistics.median(times) / steps
    on_device, on_host = profiled(epochs, steps, settings)
    busy = sum(found.seconds for found in on_device.values())
    network = f"{stage}: {name}, width {width}, batch {batch}, {settings.precision}, {' '.join(options)}. "

    shares: dict[str, Found] = {}
    for operation, found in on_device.items():
        total = shares.setdefault(kind(operation), Found(0.0, 0.0))
        total.seconds, total.calls = total.seconds + found.seconds, total.calls + found.calls
    rows = [Row(what, facts=_facts(found, busy)) for what, found in sorted(shares.items(), key=_longest)]
    yield Table(
        f"What the {'GPU' if settings.gpu else 'CPU'} does in a step of {stage}, batch {batch}",
        f"{network}torch.profiler over {steps} steps, "
        + (
            "kernels of all streams."
            if settings.gpu
            else "operations of torch in all threads, without what they call; numba's views are none of them."
        ),
        rows,
    )
    yield Table(
        f"The largest of them, {stage}, batch {batch}",
        network,
        [
            Row(_plain(operation), facts=_facts(found, busy))
            for operation, found in sorted(on_device.items(), key=_longest)[:LARGEST]
        ],
    )

    flops = batch * count(stage, batch, f"model.name={name}", f"model.width={width}").flops
    products = sum(found.seconds for what, found in shares.items() if what in COUNTED)
    facts = {
        "images/s": short(batch / step),
        "TFLOP/s": f"{flops / step / 1e12:.3g}",
        "of the matrix rate": f"{flops / step / matrix:.0%}",
        "while in products": f"{flops / products / matrix:.0%}",
        "busy": f"{busy / step:.0%}",
    }
    if settings.gpu:
        facts |= {what: short(_calls(on_host, name)) for what, name in (("launches", LAUNCHES), ("waits", WAITS))}
    else:
        facts["operations"] = short(sum(found.calls for found in on_device.values()))
    yield Table(
        f"How near to the limits, {stage}, batch {batch}",
        f"{network}Measured here: {matrix / 1e12:.3g} TFLOP/s of a large matrix product in {settings.precision}, "
        f"{memory / 1e9:.3g} GB/s of a large copy, read and written. FLOPs as counted of convolutions and matrix "
        f"products, {flops / batch / 1e9:.3g} GFLOP an image. while in products: the same rate, of the time in "
        "convolutions and matrix products alone. busy: time of all kernels or operations over the time of a step; "
        "several may run at once, and a profile takes time itself. launches, waits: of the host, a step.",
        [Row(stage, [t / steps for t in times], facts=facts)],
    )


def profiled(epochs: Epochs, steps: int, settings: Settings) -> tuple[dict[str, Found], dict[str, Found]]:
    """Name -> what it comes to, on the device and on the host; of a CPU both are the same."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if settings.gpu else [])
    with profile(activities=activities) as recorded:
        seconds(epochs, settings.device)
    device: dict[str, Found] = {}
    host: dict[str, Found] = {}
    for event in recorded.events():
        if event.is_user_annotation or event.name.startswith("autograd::engine"):  # around what is counted itself
            continue
        is_kernel = event.device_type == DeviceType.CUDA
        # Of a CPU what an operation does itself: others that it calls are counted under their own names.
        duration = event.device_time_total if is_kernel else event.self_cpu_time_total
        found = (device if is_kernel else host).setdefault(event.name, Found(0.0, 0.0))
        found.seconds, found.calls = found.seconds + duration / 1e6 / steps, found.calls + 1 / steps
    return (device, host) if settings.gpu else (host, host)


def kind(operation: str) -> str:
    """Of KINDS, or REST."""
    return next((what for what, names in KINDS.items() if re.search(names, operation, re.IGNORECASE)), REST)


def _facts(found: Found, busy: float) -> dict[str, str]:
    return {
        "ms a step": short(1e3 * found.seconds),
        "share": f"{found.seconds / busy:.1%}",
        "calls a step": short(found.calls),
    }


def _longest(item: tuple[str, Found]) -> float:
    return -item[1].seconds


def _calls(host: dict[str, Found], names: str) -> float:
    return sum(found.calls for name, found in host.items() if re.search(names, name, re.IGNORECASE))


def _plain(operation: str) -> str:
    """A kernel's name without its template's arguments, fit for a table."""
    name = re.sub(r"<.*", "", operation.removeprefix("void ")).replace("|", " ")
    return name if len(name) <= 60 else f"{name[:57]}..."
