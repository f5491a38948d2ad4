"""The relation loss: the papers' B x B matrices by autograd (naive), and the product's two forms, gather and gram.

Forward and backward to the student; what they need in memory and send between ranks; how far they are from float64;
and, about the loss itself, how its terms grow with the batch, in both norms.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dist_rmd.distill.relation import RelationLoss, auto
from tools.bench_parts.ranks import on_ranks
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table
from tools.bench_parts.timing import MIB, free_memory, resident, turns

ACCURACY_ROWS = 1024
BATCHES = [2**power for power in range(4, 11)]
CLASSES, WIDTH = 10, 512
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


def ours(method: str, sizes: Sequence[int] | None = None, **options: Any) -> Form:
    loss = RelationLoss(method=method, **options)
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


def measure(settings: Settings) -> Iterator[Table]:
    sizes = settings.sizes or tuple(2**power for power in range(*((6, 15) if settings.gpu else (8, 13))))
    if settings.quick and not settings.sizes:
        sizes = (32, 64)
    yield one_process(sizes, WIDTH, settings)
    most = torch.cuda.device_count() if settings.gpu else 2
    title = f"Relation loss, {max(2, most)} ranks"
    if most > 1:
        yield several_ranks(sizes, WIDTH, settings, most, title)
    else:
        yield Table(title, "One rank on each GPU.", [Row("all", absent=f"left out, there is {most} GPU")])
    yield accuracy(WIDTH)
    yield growth(WIDTH, batches=1 if settings.quick else 4)


# One process


def one_process(sizes: Sequence[int], width: int, settings: Settings) -> Table:
    rows = []
    for size in sizes:
        device = settings.device
        fitting = [name for name in FORMS if fits(name, size, width, device)]
        times = turns({name: step_of(FORMS[name], size, width, device) for name in fitting}, settings.rounds, device)
        for name in FORMS:
            facts = {"auto": "takes it" if auto(size, width) == name else ""}
            if name in fitting:
                peak = in_a_fresh_process(peak_memory, name, size, width, device)
                facts["peak MiB"] = f"{peak / MIB:.0f}"
            base = None if name == "naive" else f"B={size}, naive"
            absent = "" if name in fitting else "does not fit"
            rows.append(Row(f"B={size}, {name}", times.get(name, []), base, facts=facts, absent=absent))
    about = (
        f"D = {width}, float32 features, forward + backward to the student. times as fast: as naive at this B; peak: "
        "memory on top of the features; auto: which form the product chooses."
    )
    return Table("Relation loss, one process", about, rows)


def fits(name: str, rows: int, width: int, device: str) -> bool:
    return 4 * rows * (MATRICES[name] * rows + 20 * width) < 0.8 * free_memory(device)


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
            elif func is torch.ops.c10d._allgather_base_.default:
                self.total += args[1].nbytes * (ranks - 1)
            else:
                raise NotImplementedError(f"no counting rule for {func}")
        return func(*args, **(kwargs or {}))


def on_each_rank(
    cases: dict[int, list[str]], width: int, rounds: int, device: str
) -> dict[int, dict[str, tuple[list[float], float]]]:
    """B -> methods -> B -> method -> (slowest rank's seconds by round, bytes this rank sends)."""
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


def several_ranks(sizes: Sequence[int], width: int, settings: Settings, ranks: int, title: str) -> Table:
    methods = ("gather", "gram")
    cases = {size: [name for name in methods if fits(name, size, width, settings.device)] for size in sizes}
    found = on_ranks(ranks, on_each_rank, cases, width, settings.rounds, settings.device)
    rows = []
    for size in sizes:
        for name in methods:
            times, sent = found[size].get(name, ([], 0.0))
            facts = {
                "auto": "takes it" if auto(size, width) == name else "",
                "MiB sent": f"{sent / MIB:.3g}" if times else "",
            }
            base = None if name == "gather" else f"B={size}, gather"
            rows.append(Row(f"B={size}, {name}", times, base, facts=facts, absent="" if times else "does not fit"))
    about = (
        f"{'NCCL' if settings.gpu else 'gloo'}, D = {width}, B / {ranks} rows each; the slowest rank's time. times as "
        "fast: as gather at this B; MiB sent: by each rank in a step, counted from its collectives as sent in a ring."
    )
    return Table(title, about, rows)


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


def accuracy(width: int) -> Table:
    forms = {
        "naive float32": naive_edge,
        "gather": ours("gather", node=0, edge=1),
        "gram": ours("gram", node=0, edge=1),
        "gram, float32 products": gram_float32_edge,
    }
    rows = []
    for rotated in (False, True):
        for closeness in (1, 1e-1, 1e-2, 1e-3, 1e-4):
            teacher, student = (x.float() for x in features(ACCURACY_ROWS, width, closeness, rotated))
            exact = value_and_gradient(naive_edge, teacher.double(), student.double())
            errors = {name: edge_errors(form, teacher, student, exact) for name, form in forms.items()}
            facts = {"edge": f"{exact[0]:.3g}", **errors}
            rows.append(Row(f"teacher + {closeness:g} noise{', rotated' if rotated else ''}", facts=facts))
    about = (
        f"Relative error of edge / of its gradient against float64, B = {ACCURACY_ROWS}, D = {width}, on the CPU, for "
        "a student near the teacher."
    )
    return Table("Accuracy of the relation loss", about, rows)


# Growth


def batch_of_classes(rows: int, width: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Features behind a ReLU and labels: a teacher that knows the classes, a student that knows nothing."""
    labels = torch.randint(CLASSES, (rows,), generator=draw)
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))
    teacher, student = torch.randn(2, rows, width, generator=draw)
    return (centres[labels] + teacher).relu(), student.relu(), labels


def growth(width: int, batches: int) -> Table:
    """Edge and node of one batch, mean over `batches`."""
    draw = torch.Generator().manual_seed(1)
    node_pairs = ("all", "other_label", "self")
    terms = ["edge", *(f"node {pairs}" for pairs in node_pairs)]
    columns = [f"{term} {norm}" for norm in ("fro", "rms") for term in terms]
    rows = []
    for size in BATCHES:
        found = []
        for _ in range(batches):
            teacher, student, labels = batch_of_classes(size, width, draw)
            figures = []
            for norm in ("fro", "rms"):
                losses = [RelationLoss(method="gather", norm=norm, node_pairs=pairs) for pairs in node_pairs]
                relations = [loss(teacher, student, labels=labels) for loss in losses]
                figures += [relations[0].edge, *(relation.node for relation in relations)]
            found.append(figures)
        means = (float(sum(column)) / batches for column in zip(*found, strict=True))
        rows.append(Row(f"B={size}", facts={c: f"{mean:.3g}" for c, mean in zip(columns, means, strict=True)}))
    about = (
        f"D = {width}, {CLASSES} classes; features behind a ReLU, those of the teacher around class centres, those of "
        "the student around nothing."
    )
    return Table("Terms of the relation loss by batch size", about, rows)
