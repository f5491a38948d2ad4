#!/usr/bin/env python
"""How long an optimizer step takes on 1..512 GPUs, term by term: a model of what a step does and of a machine.

    python tools/scaling_model.py [--markdown FILE] [--figure FILE]

What a step consists of is counted on the code itself: floating point operations, kernels, parameters, collectives of
batch normalisation.  The constants of the GPU machine are data sheets' and published measurements, not ours.
docs/scaling.md explains both.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dist_rmd.config import sections  # noqa: E402
from dist_rmd.data.loading.batch import Batch  # noqa: E402
from dist_rmd.registry import lookup  # noqa: E402
from dist_rmd.stages.base import DataInfo  # noqa: E402

COUNTED = 8
"""images in the batch that is counted"""
RANKS = [2**power for power in range(10)]


@dataclass(frozen=True)
class Work:
    """What one optimizer step of a stage consists of."""

    stage: str
    batch: int
    """global"""
    flops: float
    """an image: forward, and backward where something is learnt"""
    kernels: int
    """a step, whatever the batch"""
    gradient_bytes: int
    statistics: int
    """collectives of batch normalisation, forward and backward, where it is synchronised"""
    features: int
    """dimensions that the relation loss compares; 0 without one"""


@dataclass(frozen=True)
class Link:
    """A way between ranks."""

    latency: float
    """seconds of a hop"""
    bandwidth: float
    """bytes a second and rank"""


@dataclass(frozen=True)
class Machine:
    """Constants of a kind of machine."""

    name: str
    flops: float
    """a second and rank, of convolutions in training"""
    launch: float
    """seconds of a kernel's launch"""
    memory: float
    """bytes a second that the optimizer moves"""
    per_node: int
    inside: Link
    between: Link


H100 = Machine(
    "8 x H100 SXM a node, NVLink inside, 400 Gb/s InfiniBand for each GPU",
    flops=0.30 * 989e12,  # 25 % and 36 % of the peak are published for such networks on an A100
    launch=4e-6,
    memory=0.8 * 3.35e12,
    per_node=8,
    inside=Link(latency=6e-6, bandwidth=300e9),
    between=Link(latency=12e-6, bandwidth=40e9),
)


def all_reduce(machine: Machine, ranks: int, size: float) -> float:
    """Seconds for `size` bytes: a tree's hops, and a ring's traffic over the slowest link."""
    if ranks == 1:
        return 0.0
    inside, nodes = min(ranks, machine.per_node), -(-ranks // machine.per_node)
    hops = 2 * math.log2(inside) * machine.inside.latency
    hops += 2 * math.log2(nodes) * machine.between.latency
    link = machine.between if nodes > 1 else machine.inside
    return hops + 2 * (ranks - 1) / ranks * size / link.bandwidth


def step(
    work: Work, machine: Machine, ranks: int, synchronised: bool = True, captured: bool = False, half: bool = False
) -> dict[str, float]:
    """Term -> seconds of one step; their sum is the step, since what overlaps is counted once.

    synchronised: dist.sync_batchnorm.  captured: kernels of a CUDA graph, which launch five times as fast.  half:
    gradients are exchanged in bf16.
    """
    share = work.batch / ranks
    arithmetic = share * work.flops / machine.flops
    launches = work.kernels * machine.launch / (5 if captured else 1)
    compute = max(arithmetic, launches)
    gradients = all_reduce(machine, ranks, work.gradient_bytes / (2 if half else 1))
    statistics = work.statistics * all_reduce(machine, ranks, 4 * 2 * 512) if synchronised else 0.0
    relation = 0.0
    if work.features and ranks > 1:
        gather = all_reduce(machine, ranks, 4 * work.batch * work.features) / 2  # all ranks' features, once
        gram = all_reduce(machine, ranks, 3 * 8 * work.features**2)
        relation = gram if work.batch >= 3 * work.features else gather
    return {
        "arithmetic": arithmetic,
        "launches": compute - arithmetic,
        "optimizer": 5 * work.gradient_bytes / machine.memory,  # reads weights, gradients, momentum; writes two of them
        "batch statistics": statistics,
        "gradients": max(0.0, gradients - compute / 2),  # the rest hides behind the backward pass
        "relation": relation,
    }


class Kernels(TorchDispatchMode):
    """Counts operations that are not mere views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += not function.is_view
        return result


def count(name: str, batch: int, *overrides: str) -> Work:
    """Take one step of a stage on a few images and count."""
    config = sections.parse(None, ["relation.teacher=random", *overrides])
    kind = lookup("stages", name)
    stage = kind(kind.scope(config), DataInfo(10, 32, 50000), {})
    views = [torch.randn(COUNTED, 3, 32, 32) for _ in stage.views]
    labels = torch.arange(COUNTED) % 10
    shortcuts = [getattr(module, "shortcut", None) for module in stage.net.modules()]
    # A shortcut's statistics are exchanged with those of its block's last normalisation.
    joined = {id(norm) for shortcut in shortcuts if shortcut is not None for norm in shortcut.modules()}
    norms = [module for module in stage.net.modules() if isinstance(module, _BatchNorm) and id(module) not in joined]
    called = 0

    def tick(*_: object) -> None:
        nonlocal called
        called += 1

    for norm in norms:
        norm.register_forward_hook(tick)
    parameters = [p for p in stage.net.parameters() if p.requires_grad]
    flops, kernels = FlopCounterMode(display=False), Kernels()
    with flops, kernels:
        loss = stage.losses(stage.net, Batch(tuple(views), labels, labels, labels, (COUNTED,), 0, 0))["loss"]
        loss.backward()
    return Work(
        name,
        batch,
        flops.get_total_flops() / COUNTED,
        kernels.count,
        sum(4 * p.numel() for p in parameters),
        2 * called,
        512 if name == "rgrl" else 0,
    )


TERMS = ("arithmetic", "launches", "optimizer", "batch statistics", "gradients", "relation")
WORKS = (("simsiam", 512), ("simsiam", 4096), ("rgrl", 64), ("rgrl", 4096))
SHOWN = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
OPTIONS = {
    "as it is": {},
    "dist.sync_batchnorm=false": {"synchronised": False},
    "kernels captured": {"captured": True},
    "gradients in bf16": {"half": True},
    "all three": {"synchronised": False, "captured": True, "half": True},
}


def possible(work: Work) -> list[int]:
    """Numbers of ranks that leave each at least two images."""
    return [ranks for ranks in RANKS if work.batch >= 2 * ranks]


def fastest(work: Work, machine: Machine, **options: bool) -> int:
    """The number of ranks beyond which a step takes longer, not shorter."""
    return min(possible(work), key=lambda ranks: sum(step(work, machine, ranks, **options).values()))


def markdown(works: Sequence[Work], machine: Machine) -> str:
    """A table of step times for each work, and one of where each stops scaling."""
    lines = []
    for work in works:
        lines += ["", f"{title(work)}: milliseconds of a step", ""]
        lines += [f"| ranks | {' | '.join(TERMS)} | step | images/s | of ideal |", "|---" * (len(TERMS) + 4) + "|"]
        alone = sum(step(work, machine, 1).values())
        for ranks in possible(work):
            terms = step(work, machine, ranks)
            total = sum(terms.values())
            cells = " | ".join(f"{1e3 * terms[term]:.2f}" for term in TERMS)
            share = 100 * alone / total / ranks
            lines.append(f"| {ranks} | {cells} | {1e3 * total:.2f} | {work.batch / total:,.0f} | {share:.0f} % |")
    lines += ["", "Ranks beyond which a step takes longer, and images/s there:", ""]
    lines += [f"| | {' | '.join(OPTIONS)} |", "|---" * (len(OPTIONS) + 1) + "|"]
    for work in works:
        fastest_of = []
        for options in OPTIONS.values():
            ranks = fastest(work, machine, **options)
            seconds = sum(step(work, machine, ranks, **options).values())
            fastest_of.append(f"{ranks}: {work.batch / seconds:,.0f}")
        lines.append(f"| {title(work)} | {' | '.join(fastest_of)} |")
    lines += [
        "",
        "What reading must bring, at most, for uint8 images of 32 x 32 pixels; a larger image has as much more work",
        "as it has bytes, and needs no more a second:",
        "",
    ]
    lines += ["| | each node | all nodes |", "|---|---|---|"]
    for work in works:
        rates = {n: work.batch / sum(step(work, machine, n).values()) * 32 * 32 * 3 / 1e9 for n in possible(work)}
        node = max(rate / -(-ranks // machine.per_node) for ranks, rate in rates.items())
        lines.append(f"| {title(work)} | {node:.2f} GB/s | {max(rates.values()):.2f} GB/s |")
    return "\n".join(lines[1:]) + "\n"


def title(work: Work) -> str:
    return f"{work.stage}, global batch {work.batch}"


def draw(works: Sequence[Work], machine: Machine, path: Path) -> None:
    """Step time by terms over the number of ranks, a panel for each work, with the ideal as a line."""
    figure, panels = plt.subplots(1, len(works), figsize=(4 * len(works), 3.6), sharex=True, layout="constrained")
    for work, axes in zip(works, panels, strict=True):
        ranks = possible(work)
        steps = [step(work, machine, count) for count in ranks]
        places = [math.log2(count) for count in ranks]
        floor = [0.0] * len(ranks)
        for term in TERMS:
            heights = [1e3 * terms[term] for terms in steps]
            axes.bar(places, heights, bottom=floor, label=term, width=0.8)
            floor = [low + height for low, height in zip(floor, heights, strict=True)]
        alone = 1e3 * sum(steps[0].values())
        axes.plot(places, [alone / count for count in ranks], "k--", linewidth=1, label="ideal")
        axes.set(title=title(work), xlabel="ranks", ylim=(0, 1.15 * max(floor[1:])))
        axes.set_xticks([math.log2(count) for count in SHOWN], [str(count) for count in SHOWN], fontsize=8)
    panels[0].set_ylabel("ms of a step")
    panels[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, not to the terminal")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw them there (.png, .pdf, .svg)")
    arguments = parser.parse_args()
    works = [count(stage, batch) for stage, batch in WORKS]
    text = markdown(works, H100)
    if arguments.markdown:
        arguments.markdown.write_text(text)
    else:
        print(text, end="")
    if arguments.figure:
        draw(works, H100, arguments.figure)


if __name__ == "__main__":
    main()
