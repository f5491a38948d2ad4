"""FOLDER: MODUL's terms on shards of a batch, with heads under DDP -> FOLDER/rank<r>.pt.

Called by conftest.py; test_instance.py, test_mixup.py and test_prototypes.py compare the results with the whole batch.
"""

import itertools
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_rmd.distill.instance import instance_loss
from dist_rmd.distill.mixup import draw, mixed, partners
from dist_rmd.distill.prototypes import class_sums, prototypes, prototypical_loss
from dist_rmd.distributed import processes

ROWS, FEATURES, WIDTH, CLASSES = 7, 5, 4, 4
# rows of each rank
SHARDS: dict[int, list[tuple[int, ...]]] = {2: [(4, 3), (5, 2)], 3: [(3, 2, 2), (1, 4, 2), (4, 0, 3)]}
INSTANCE_FORMS = list(itertools.product((1.0, 0.3), (False, True)))
"""temperature, student_negatives"""


class Heads(nn.Module):
    """A linear layer each for the teacher's features and the student's, to unit length."""

    def __init__(self, weights: Tensor):
        super().__init__()
        layers = [nn.Linear(FEATURES, WIDTH, bias=False, dtype=weights.dtype) for _ in weights]
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.data = weight.clone()
        self.teacher, self.student = layers

    def forward(self, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.teacher(teacher), dim=1), F.normalize(self.student(student), dim=1)


def whole_batch() -> dict[str, Tensor]:
    """Features of both networks, weights of both heads, labels (class 1 has no image), images; always the same."""
    draws = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(2, ROWS, FEATURES, generator=draws, dtype=torch.float64)
    return {
        "teacher": teacher,
        "student": student,
        "weights": torch.randn(2, WIDTH, FEATURES, generator=draws, dtype=torch.float64),
        "labels": torch.tensor([0, 2, 0, 3, 2, 0, 0]),
        "images": torch.randn(ROWS, 3, 4, 4, generator=draws),
    }


def loss_and_gradients(heads: nn.Module, values: Tensor, sizes: tuple[int, ...]) -> dict[str, Tensor | None]:
    """Backward from this rank's part of the mean over all rows: what DDP averages over ranks is the whole mean."""
    (values.sum() * len(sizes) / sum(sizes)).backward()
    return {"values": values.detach(), **{name[-14:]: p.grad for name, p in heads.named_parameters()}}


def instance(heads: nn.Module, mine: dict[str, Tensor], sizes: tuple[int, ...], form: tuple[float, bool]) -> dict:
    teacher, student = heads(mine["teacher"], mine["student"])
    return loss_and_gradients(heads, instance_loss(student, teacher, sizes, *form), sizes)


def prototypical(heads: nn.Module, mine: dict[str, Tensor], sizes: tuple[int, ...]) -> dict:
    """Both networks' loss; the prototypes are those of the teacher's embeddings."""
    teacher, student = heads(mine["teacher"], mine["student"])
    sums, counts = class_sums(teacher, mine["labels"], CLASSES)
    found = prototypes(sums, counts)
    values = torch.stack([prototypical_loss(z, mine["labels"], found) for z in (teacher, student)]).sum(0)
    return {"sums": sums, "counts": counts, **loss_and_gradients(heads, values, sizes)}


def mixup(mine: dict[str, Tensor], sizes: tuple[int, ...], rank: int) -> dict:
    """The mix, the partners' labels and images, and the mixed images."""
    mix = draw(seed=1, epoch=2, number=3, size=sum(sizes), delta=8.0)
    labels, others = (partners(mine[what], mix, sizes, rank) for what in ("labels", "images"))
    return {**mix._asdict(), "labels": labels, "others": others, "mixed": mixed(mine["images"], others, mix.weight)}


def results(rank: int, ranks: int) -> dict[str, list]:
    """Each term's results, one for each way to shard the batch."""
    whole = whole_batch()
    found: dict[str, list] = {"instance": [], "prototypical": [], "mixup": []}
    for sizes in SHARDS[ranks]:
        mine = {name: rows.split(sizes)[rank] for name, rows in whole.items() if len(rows) == ROWS}
        mine["images"] = mine["images"].contiguous(memory_format=torch.channels_last)

        def heads() -> nn.Module:
            return DistributedDataParallel(Heads(whole["weights"]))

        found["instance"].append([instance(heads(), mine, sizes, form) for form in INSTANCE_FORMS])
        found["prototypical"].append(prototypical(heads(), mine, sizes))
        found["mixup"].append(mixup(mine, sizes, rank))
    return found


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.save(results(rank, dist.get_world_size()), Path(sys.argv[1]) / f"rank{rank}.pt")
    processes.stop()
