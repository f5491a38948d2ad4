"""Where the time of a step goes that arithmetic does not need: each layer beside the machine's two limits.

A roofline (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785): an operation takes at least as long as its
FLOPs at the rate of a large matrix product, and as its bytes, read and written once, at the rate of a copy.

On a CPU everything here runs in one thread, and CPU time is counted: what other programs take is no part of it.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dist_rmd.pipeline.session import StageSession
from tools.bench_parts import launches
from tools.bench_parts.machine import matrix_size
from tools.bench_parts.profile import kind
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table, short
from tools.bench_parts.timing import Way, synchronise

COPIED = 2**23  # bytes of the copy, about those of an activation; larger ones may be slower
REPEATS = 20  # calls of a matrix product and of a copy, the best of which is the limit
PASSES = ("forward", "backward, data", "backward, weights")
BACKWARD = torch.ops.aten.convolution_backward.default


@dataclass(frozen=True)
class Operation:
    """One operation of a step: `seconds` is what it took, `floor` what it needs at the machine's limits."""

    kind: str
    """of profile.KINDS"""
    layer: str
    """sizes of a convolution or matrix product; else empty"""
    direction: str
    """of PASSES, for those; else empty"""
    flops: int
    bytes: int
    seconds: float

    def floor(self, matrix: float, memory: float) -> float:
        """matrix in FLOP/s, memory in bytes/s."""
        return max(self.flops / matrix, self.bytes / memory)


class Watched(TorchDispatchMode):
    """Times each operation that reaches the device's backend; the two halves of a convolution's gradient apart."""

    def __init__(self, device: str, weights: set[tuple[int, ...]]):
        """weights: shapes of the network's parameters, by which the gradients of weights are known."""
        super().__init__()
        self.device, self.weights = device, weights
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.is_view or function.overloadpacket.__name__.startswith(launches.ALLOCATIONS):
            return function(*args, **kwargs)
        if function is not BACKWARD:
            return self.timed(function, args, kwargs)
        parts = []
        for place, wanted in enumerate(args[-1]):
            mask = [wanted and place == other for other in range(3)]
            parts.append(self.timed(function, (*args[:-1], mask), kwargs)[place] if wanted else None)
        return tuple(parts)

    def timed(self, function: Any, args: Any, kwargs: Any) -> Any:
        result = None

        def call() -> None:
            nonlocal result
            result = function(*args, **kwargs)

        took = cost(call, self.device)
        packet = function.overloadpacket
        flops = flop_registry[packet](*args, **kwargs, out_val=result) if packet in flop_registry else 0
        what = kind(packet.__name__)
        layer, direction = self.place(function, args, result) if flops else ("", "")
        read = args if function is not BACKWARD else (args[0], args[2 if args[-1][0] else 1])  # one half of it
        moved = size(read) + size(kwargs) + size(result) + written(function, args)
        self.operations.append(Operation(what, layer, direction, flops, moved, took))
        return result

    def place(self, function: Any, args: Any, result: Any) -> tuple[str, str]:
        """Layer and direction of a convolution or a matrix product."""
        if function is BACKWARD:
            _, x, weight, *_ = args
            return convolution(x, weight, args[4]), PASSES[1 if args[-1][0] else 2]
        if function is torch.ops.aten.convolution.default:
            return convolution(args[0], args[1], args[3]), PASSES[0]
        left, right = args[-2:]
        layer = "linear, " + " x ".join(map(str, sorted((*left.shape, right.shape[1]))))
        if tuple(result.shape) in self.weights:
            return layer, PASSES[2]
        return layer, PASSES[0 if torch.is_grad_enabled() else 1]  # which a backward pass switches off


def convolution(x: Tensor, weight: Tensor, stride: list[int]) -> str:
    out, channels, side, _ = weight.shape
    step = f", stride {stride[0]}" if stride[0] > 1 else ""
    return f"{channels} -> {out} channels, {side} x {side}{step}, on {x.shape[2]} x {x.shape[3]}"


def size(values: Any) -> int:
    """Bytes of all tensors among the values."""
    return sum(value.nbytes for value in tree_leaves(values) if isinstance(value, Tensor))


def written(function: Any, args: Any) -> int:
    """Bytes of the arguments that an operation without a result writes, as the fused optimizer does.

    Gradients are declared as written, too, but are so for a gradient scaler alone.
    """
    if function._schema.returns:
        return 0
    declared = [argument.alias_info is not None and argument.name != "grads" for argument in function._schema.arguments]
    return sum(size(value) for value, changed in zip(args, declared, strict=False) if changed)


def measure(settings: Settings) -> Iterator[Table]:
    if not settings.gpu:
        torch.set_num_threads(1)  # the next section sets it again
    for options in ((), *((option,) for option in settings.options)):
        yield from one(settings, options)


def cost(way: Way, device: str) -> float:
    """Seconds of one call: on a CPU those that this process has the CPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    synchronise(device)
    began = clock()
    way()
    synchronise(device)
    return clock() - began


def limits(settings: Settings, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a large matrix product, and bytes/s, read and written, of a copy."""
    side = matrix_size(settings)
    a, b = torch.randn(2, side, side, device=settings.device).to(dtype)
    source = torch.zeros(COPIED, dtype=torch.uint8, device=settings.device)
    target = source.clone()
    product, copy = (
        min(cost(way, settings.device) for _ in range(REPEATS)) for way in (lambda: a @ b, lambda: target.copy_(source))
    )
    return 2 * side**3 / product, 2 * COPIED / copy


def one(settings: Settings, options: tuple[str, ...]) -> Iterator[Table]:
    """The tables of SimSiam under some further settings of the product's."""
    run = launches.session(settings, "simsiam", settings.batch, options)
    dtype = run.updater.dtype or torch.float32
    matrix, memory = limits(settings, dtype)
    whole, operations = observed(run, settings)
    about = (
        f"{'{}, width {}'.format(*settings.network)}, batch {settings.batch} (2 x {settings.batch} views), "
        f"{' '.join([str(dtype).removeprefix('torch.'), *options])}, channels_last, nothing compiled, without the "
        f"views of the images. Measured here: {matrix / 1e12:.3g} TFLOP/s of a large matrix product, "
        f"{memory / 1e9:.3g} GB/s of a copy of {COPIED / 1e6:.3g} MB, read and written; an operation needs the longer "
        f"of its FLOPs and its bytes at these rates. {'' if settings.gpu else 'CPU time of one thread; '}the best of "
        f"{settings.rounds} steps for each operation. "
    )
    yield by_layer(operations, about, matrix, memory)
    yield by_kind(operations, about, matrix, memory, whole)


def observed(run: StageSession, settings: Settings) -> tuple[list[float], list[Operation]]:
    """Seconds of whole steps, and the operations of a step, each with its best time: others slow it down, too."""
    run.stage.start_epoch()
    run.net.train()
    batch, clock = next(run.batches.epoch(0)), replace(run.clock)
    weights = {tuple(parameter.shape) for parameter in run.net.parameters()}

    def step() -> None:
        launches.step(run, batch, clock)

    step()
    whole, watched = [], []
    for _ in range(settings.rounds):
        whole.append(cost(step, settings.device))
        with Watched(settings.device, weights) as seen:
            step()
        watched.append(seen.operations)
    best = [replace(same[0], seconds=min(each.seconds for each in same)) for same in zip(*watched, strict=True)]
    return whole, best


def by_layer(operations: Sequence[Operation], about: str, matrix: float, memory: float) -> Table:
    """A row for each size of a convolution or linear layer."""
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        if operation.layer:
            found.setdefault(operation.layer, []).append(operation)
    rows = []
    for layer, its in found.items():
        forward = [operation for operation in its if operation.direction == PASSES[0]]
        flops, moved = sum(each.flops for each in forward), sum(each.bytes for each in forward)
        facts = {
            "layers": str(len(forward)),
            "GFLOP": short(flops / 1e9),
            "MB": short(moved / 1e6),
            "FLOP/byte": short(flops / moved),
            "needs": f"{short(1e3 * sum(each.floor(matrix, memory) for each in forward))}, "
            + ("products" if flops / matrix > moved / memory else "memory"),
        }
        for direction in PASSES:
            ours = [operation for operation in its if operation.direction == direction]
            facts[direction] = took(ours, matrix, memory) if ours else ""
        rows.append(Row(layer, facts=facts))
    return Table(
        "Roofline of a step, by layer",
        about + "GFLOP, MB (read and written), FLOP/byte and needs (ms, and which limit it is) are those of the "
        "forward pass; either half of the gradient has about the same. Then ms of each pass, and the share of the "
        "limit that it reaches.",
        rows,
    )


def by_kind(operations: Sequence[Operation], about: str, matrix: float, memory: float, whole: Sequence[float]) -> Table:
    """A row for each kind of operation, what is no operation, and the whole step."""
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        what = f"{operation.kind}, {operation.direction}" if operation.layer else operation.kind
        found.setdefault(what, []).append(operation)
    step, spent = min(whole), sum(operation.seconds for operation in operations)
    needed = sum(operation.floor(matrix, memory) for operation in operations)

    def facts(needs: float, takes: float, count: int) -> dict[str, str]:
        return {
            "operations": str(count),
            "needs ms": short(1e3 * needs),
            "takes ms": short(1e3 * takes),
            "of the limit": f"{needs / takes:.0%}" if takes > 0 else "",
            "of the step": f"{takes / step:.0%}",
            "lost ms": short(1e3 * (takes - needs)),
        }

    rows = [
        Row(what, facts=facts(sum(o.floor(matrix, memory) for o in its), sum(o.seconds for o in its), len(its)))
        for what, its in sorted(found.items(), key=lambda item: -sum(o.seconds for o in item[1]))
    ]
    rows.append(Row("between operations: Python, autograd, allocations", facts=facts(0.0, step - spent, 0)))
    rows.append(Row("the step", list(whole), facts=facts(needed, step, len(operations))))
    flops = sum(operation.flops for operation in operations)
    return Table(
        "Roofline of a step, by kind",
        f"{about}{flops / 1e9:.3g} GFLOP a step, which alone need {short(1e3 * flops / matrix)} ms: "
        f"{flops / matrix / step:.0%} of the best step. What is neither convolution nor product needs its bytes alone.",
        rows,
    )


def took(operations: Sequence[Operation], matrix: float, memory: float) -> str:
    """Milliseconds, and the share of the limit."""
    taken = sum(operation.seconds for operation in operations)
    return f"{short(1e3 * taken)} ({sum(operation.floor(matrix, memory) for operation in operations) / taken:.0%})"
