#!/usr/bin/env python
"""Cost and accuracy of the relation loss: the papers' B x B matrices by autograd (naive), gather and gram.

    python tools/bench_relation.py [--sizes 256,512,...] [--width 512] [--markdown FILE]

One run measures side by side: forward + backward time (the forms take turns, in alternating order), peak memory (each
in a process of its own), time and bytes sent on several ranks (torchrun, gloo or NCCL), and errors against float64.
The last table is about the loss itself: how its terms grow with the batch, in both norms.
"""

import argparse
import math
import multiprocessing
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dist_rmd.distill.relation import RelationLoss, auto  # noqa: E402

MIB = 2**20
ACCURACY_ROWS = 1024
BATCHES = [2**power for power in range(4, 11)]
CLASSES = 10
Form = Callable[[Tensor, Tensor], Tensor]


# The forms


def standardise(x: Tensor) -> Tensor:
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True)


def naive_edge(teacher: Tensor, student: Tensor) -> Tensor:
    z_t, z_s = standardise(teacher), standardise(student)
    return (z_t @ z_t.T - z_s @ z_s.T).norm()


def naive(teacher: Tensor, student: Tensor) -> Tensor:
    """The loss as the paper writes it: three B x B matrices, all of them kept for the backward pass."""
    z_t, z_s = standardise(teacher), standardise(student)
    ones = torch.eye(len(z_t), device=z_t.device)
    return 0.8 * (z_t @ z_s.T - ones).norm() + 0.35 * (z_t @ z_t.T - z_s @ z_s.T).norm()


def gram_float32_edge(teacher: Tensor, student: Tensor) -> Tensor:
    """What gram would give without its float64 products."""
    z_t, z_s = standardise(teacher), standardise(student)
    squares = [(a.T @ b).square().sum() for a, b in ((z_t, z_t), (z_s, z_s), (z_t, z_s))]
    return (squares[0] + squares[1] - 2 * squares[2]).clamp_min(0).sqrt()


def ours(method: str, sizes: Sequence[int] | None = None, **weights: float) -> Form:
    loss = RelationLoss(method=method, **weights)
    return lambda teacher, student: loss(teacher, student, sizes).loss


FORMS: dict[str, Form] = {"naive": naive, "gather": ours("gather"), "gram": ours("gram")}
MATRICES = {"naive": 5, "gather": 3, "gram": 0}  # B x B float32 matrices alive at once, as measured


def features(rows: int, width: int, closeness: float = 1, rotated: bool = False) -> tuple[Tensor, Tensor]:
    """Float64 teacher features with a decaying spectrum, and a student: teacher + closeness * as much noise.

    rotated: the student is turned within the centred features, which no relation within it notices.
    """
    draw = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, width + 1, dtype=torch.float64) ** -0.5
    teacher, noise = torch.randn(2, rows, width, generator=draw, dtype=torch.float64) * spectrum
    student = teacher + closeness * noise
    if rotated:
        first = torch.cat([torch.ones(width, 1), torch.randn(width, width - 1, generator=draw)], dim=1).double()
        centred = torch.linalg.qr(first)[0][:, 1:]  # a basis of the centred features, D x (D - 1)
        turn = torch.linalg.qr(torch.randn(width - 1, width - 1, generator=draw, dtype=torch.float64))[0]
        student = student @ centred @ turn @ centred.T
    return teacher, student


def step_of(form: Form, rows: int, width: int, device: str, part: slice = slice(None)) -> Callable[[], None]:
    """Forward and backward to the student's features, in float32."""
    teacher, student = (x[part].float().to(device) for x in features(rows, width))
    student.requires_grad_()

    def step() -> None:
        torch.autograd.grad(form(teacher, student), student)

    return step


# Time


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(step: Callable[[], None], device: str, repeats: int) -> float:
    if dist.is_initialized():
        dist.barrier()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def turns(steps: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every round and form; the order of the forms alternates.  Short steps are repeated to 50 ms."""
    repeats, times = {}, {name: [] for name in steps}
    for name, step in steps.items():
        seconds(step, device, 1)  # warm-up
        taken = torch.tensor(seconds(step, device, 1))
        if dist.is_initialized():  # all ranks must repeat as often
            dist.all_reduce(taken, dist.ReduceOp.MAX)
        repeats[name] = max(1, math.ceil(0.05 / taken.item()))
    for turn in range(rounds):
        for name in list(steps)[:: 1 if turn % 2 == 0 else -1]:
            times[name].append(seconds(steps[name], device, repeats[name]))
    return times


# Memory


def resident(field: str) -> int:
    """VmRSS, or VmHWM, its highest value so far, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def peak_memory(name: str, rows: int, width: int, device: str) -> int:
    """Bytes that one step needs on top of the features.  Runs in a process of its own."""
    step_of(FORMS[name], 8, width, device)()  # loads the libraries
    step = step_of(FORMS[name], rows, width, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM = VmRSS
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def in_a_fresh_process(function: Callable, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def free_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")]
    return int(line.split()[1]) * 1024


def fits(name: str, rows: int, width: int, device: str) -> bool:
    return 4 * rows * (MATRICES[name] * rows + 20 * width) < 0.8 * free_memory(device)


# Ranks


class BytesSent(TorchDispatchMode):
    """Counts the collectives really issued.  What a rank sends is counted as in a ring of W ranks: the tensor handed
    to an all_gather passes through W - 1 ranks, that of an all_reduce is sent 2 (W - 1) / W times.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            ranks = dist.get_world_size()
            if func is torch.ops.c10d.allreduce_.default:
                self.total += sum(tensor.nbytes for tensor in args[0]) * 2 * (ranks - 1) / ranks
            elif func is torch.ops.c10d.allgather_.default:
                self.total += sum(tensor.nbytes for tensor in args[1]) * (ranks - 1)
            else:
                raise NotImplementedError(f"no counting rule for {func}")
        return func(*args, **(kwargs or {}))


def rank_main(
    cases: dict[int, list[str]], width: int, rounds: int, device: str
) -> dict[int, dict[str, tuple[list[float], float]]]:
    """On every rank, cases: B -> methods -> B -> method -> (slowest rank's seconds by round, bytes this rank sends)."""
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
    results: dict[int, dict[str, tuple[list[float], float]]] = {}
    for rows, methods in cases.items():
        shards = [rows // ranks + (r < rows % ranks) for r in range(ranks)]
        part = slice(sum(shards[:rank]), sum(shards[: rank + 1]))
        steps = {name: step_of(ours(name, shards), rows, width, device, part) for name in methods}
        sent = {}
        for name, step in steps.items():
            with BytesSent() as counted:
                step()
            sent[name] = counted.total
        results[rows] = {}
        for name, times in turns(steps, rounds, device).items():
            slowest = torch.tensor(times, dtype=torch.float64)
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            results[rows][name] = (slowest.tolist(), sent[name])
    dist.destroy_process_group()
    return results


def on_ranks(ranks: int, *arguments) -> dict[int, dict[str, tuple[list[float], float]]]:
    """rank_main under torchrun -> rank 0's results."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    return elastic_launch(config, rank_main)(*arguments)[0]


# Accuracy


def edge_errors(form: Form, teacher: Tensor, student: Tensor, exact: tuple[Tensor, Tensor]) -> str:
    """Relative errors of edge and of its gradient in the student, against float64."""
    found = value_and_gradient(form, teacher, student)
    value, gradient = (float((x.double() - true).norm() / true.norm()) for x, true in zip(found, exact, strict=True))
    return f"{value:.0e} / {gradient:.0e}"


def value_and_gradient(form: Form, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    value = form(teacher, student)
    return value.detach(), torch.autograd.grad(value, student)[0]


def accuracy_table(width: int) -> list[list[str]]:
    forms = {
        "naive float32": naive_edge,
        "gather": ours("gather", node=0, edge=1),
        "gram": ours("gram", node=0, edge=1),
        "gram, float32 products": gram_float32_edge,
    }
    table = [["student", "edge", *forms]]
    for rotated in (False, True):
        for closeness in (1, 1e-1, 1e-2, 1e-3, 1e-4):
            teacher, student = (x.float() for x in features(ACCURACY_ROWS, width, closeness, rotated))
            exact = value_and_gradient(naive_edge, teacher.double(), student.double())
            errors = [edge_errors(form, teacher, student, exact) for form in forms.values()]
            table.append([f"{closeness:g}{' rotated' if rotated else ''}", f"{exact[0]:.3g}", *errors])
    return table


# Growth


def batch_of_classes(rows: int, width: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Features behind a ReLU and labels: a teacher that knows the classes, a student that knows nothing."""
    labels = torch.randint(CLASSES, (rows,), generator=draw)
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))
    teacher, student = torch.randn(2, rows, width, generator=draw)
    return (centres[labels] + teacher).relu(), student.relu(), labels


def growth_table(width: int, batches: int = 4) -> list[list[str]]:
    """Edge and node of one batch, mean over `batches`."""
    draw = torch.Generator().manual_seed(1)
    node_pairs = ("all", "other_label", "self")
    columns = ["edge", *(f"node {pairs}" for pairs in node_pairs)]
    table = [["B", *(f"{column} {norm}" for norm in ("fro", "rms") for column in columns)]]
    for rows in BATCHES:
        found = []
        for _ in range(batches):
            teacher, student, labels = batch_of_classes(rows, width, draw)
            terms = []
            for norm in ("fro", "rms"):
                losses = [RelationLoss(method="gather", norm=norm, node_pairs=pairs) for pairs in node_pairs]
                relations = [loss(teacher, student, labels=labels) for loss in losses]
                terms += [relations[0].edge, *(relation.node for relation in relations)]
            found.append(terms)
        table.append([str(rows), *(f"{float(sum(column)) / batches:.3g}" for column in zip(*found, strict=True))])
    return table


# Tables


def short(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def milliseconds(times: list[float]) -> str:
    low, middle, high = (short(1000 * t) for t in (min(times), statistics.median(times), max(times)))
    return f"{middle} ({low}..{high})"


def cells(times: dict[str, list[float]], names: Iterable[str]) -> list[str]:
    return [milliseconds(times[name]) if name in times else "does not fit" for name in names]


def speed_up(base: list[float], times: list[float]) -> str:
    """Median over rounds of base / times."""
    return f"x{statistics.median(b / t for b, t in zip(base, times, strict=True)):.3g}"


def one_process_table(sizes: Sequence[int], width: int, rounds: int, device: str) -> list[list[str]]:
    columns = [f"{name} {what}" for what in ("ms", "MiB") for name in FORMS]
    table = [["B", *columns[:3], "gather", "gram", *columns[3:], "auto"]]
    for rows in sizes:
        report(f"B={rows}: one process")
        fitting = [name for name in FORMS if fits(name, rows, width, device)]
        times = turns({name: step_of(FORMS[name], rows, width, device) for name in fitting}, rounds, device)
        peaks = {name: in_a_fresh_process(peak_memory, name, rows, width, device) / MIB for name in fitting}
        table.append(
            [
                str(rows),
                *cells(times, FORMS),
                *(speed_up(times["naive"], times[n]) if {"naive", n} <= {*times} else "" for n in ("gather", "gram")),
                *(f"{peaks[name]:.0f}" if name in peaks else "" for name in FORMS),
                auto(rows, width),
            ]
        )
    return table


def ranks_table(sizes: Sequence[int], width: int, rounds: int, device: str, ranks: int) -> list[list[str]]:
    report(f"{ranks} ranks")
    methods = ["gather", "gram"]
    table = [["B", "gather ms", "gram ms", "gram / gather", "gather MiB sent", "gram MiB sent", "auto"]]
    cases = {rows: [name for name in methods if fits(name, rows, width, device)] for rows in sizes}
    for rows, found in on_ranks(ranks, cases, width, rounds, device).items():
        times = {name: times for name, (times, _) in found.items()}
        speed = speed_up(times["gather"], times["gram"]) if "gather" in times else ""
        sent = [f"{found[name][1] / MIB:.3g}" if name in found else "" for name in methods]
        table.append([str(rows), *cells(times, methods), speed, *sent, auto(rows, width)])
    return table


def markdown(table: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    head, *body = ["| " + " | ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in table]
    return "\n".join([head, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|", *body])


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].split(":")[1].strip() if models else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def commit() -> str:
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    measured = ["dist_rmd/distill", "dist_rmd/collectives.py", "tools/bench_relation.py"]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *measured], capture_output=True, text=True).stdout
    return (found.stdout.strip() or "unknown") + (" with changes" if changed else "")


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    doubling = ",".join(str(2**power) for power in range(8, 15))
    parser.add_argument("--sizes", default=doubling, help="global batch sizes B, by commas (%(default)s)")
    parser.add_argument("--width", type=int, default=512, help="features D (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (%(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="ranks of the distributed part; 1 leaves it out")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    args = parser.parse_args()
    sizes = [int(size) for size in args.sizes.split(",")]
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"

    sections = [
        f"{machine(device)}; Python {platform.python_version()}, torch {torch.__version__}, commit {commit()}",
        f"    python {shlex.join([os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]])}",
        f"One process, D = {args.width}, float32 features, forward + backward to the student; median (min..max) of "
        f"{args.rounds} rounds; x: times faster than naive; MiB: peak on top of the features.",
        markdown(one_process_table(sizes, args.width, args.rounds, device)),
    ]
    if device == "cuda" and args.ranks > torch.cuda.device_count():
        sections.append(f"{args.ranks} ranks: left out, there are {torch.cuda.device_count()} GPUs.")
    elif args.ranks > 1:
        sections += [
            f"{args.ranks} ranks ({'NCCL' if device == 'cuda' else 'gloo'}), B / {args.ranks} rows each; the slowest "
            "rank's time; MiB that each rank sends in one step, counted from its collectives as sent in a ring.",
            markdown(ranks_table(sizes, args.width, args.rounds, device, args.ranks)),
        ]
    report("accuracy")
    sections += [
        f"Relative error of edge / of its gradient against float64, B = {ACCURACY_ROWS}, D = {args.width}, CPU; "
        "student: teacher + so much noise, rotated or not.",
        markdown(accuracy_table(args.width)),
        f"The terms by batch size, D = {args.width}, {CLASSES} classes; features behind a ReLU, those of the teacher "
        "around class centres, those of the student around nothing.",
        markdown(growth_table(args.width)),
    ]
    text = "\n\n".join(sections) + "\n"
    print(text)
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    main()
