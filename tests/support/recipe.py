"""Small stages and batches for tests: width 8, 8 x 8 images, 3 classes."""

from typing import get_args

import torch
import torch.nn.functional as F

from dist_rmd.config import sections
from dist_rmd.data.augment.keyed_rng import shard
from dist_rmd.data.loading.batch import Batch
from dist_rmd.distill.division import CLEAN, CLOSED, OPEN
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier
from dist_rmd.registry import lookup
from dist_rmd.stages._label_free import LabelFree
from dist_rmd.stages.base import DataInfo

SMALL = (
    "model.width=8", "model.name=resnet10", "teacher.model=resnet10", "teacher.width=8",
    "dafl.latent=5", "dfad.latent=5", "zskt.latent=5", "inversion.batch_size=10", "inversion.epochs=3",
    "deepinversion.batch_size=10",
)  # fmt: skip
HEADS = (
    "simsiam.proj_hidden=16", "simsiam.proj_out=16", "simsiam.pred_hidden=8",
    "simclr.proj_hidden=16", "simclr.proj_out=16",
    "byol.proj_hidden=16", "byol.proj_out=16", "byol.batch_size=10",
    "moco.proj_hidden=16", "moco.proj_out=16", "moco.K=25", "moco.batch_size=10",
    "dino.proj_hidden=16", "dino.bottleneck_dim=16", "dino.out_dim=20", "dino.local_crops_number=2",
    "dino.batch_size=10",
)  # fmt: skip
SHAPE = DataInfo(classes=3, side=8, images=30)


def stage(name, *overrides, seed=0, **brought):
    """A stage as the train command builds it; networks of earlier stages are random ones, but for those `brought`."""
    config = sections.parse(None, [*SMALL, *HEADS, *overrides])
    torch.manual_seed(99)
    scores = [{"epoch": 1, "step": 9, "test/knn_top1": 50.0}, {"epoch": 2, "step": 18, "test/knn_top1": 60.0}]
    model = {"name": "resnet10", "width": 8}
    simsiam = {"encoder": encoder("resnet10", 8).state_dict(), "scores": scores, "model": model}
    inputs = {
        **dict.fromkeys(get_args(LabelFree), simsiam),
        "teacher": teacher(),
        "division": division(),
        "relabel": relabelled(),
        "inversion": made(),
        **brought,
    }
    torch.manual_seed(seed)
    kind = lookup("stages", name)
    return kind(kind.scope(config), SHAPE, inputs)


def teacher(width=16):
    """What students take of a teacher's artefact; its weights come from torch's generator."""
    net = ImageClassifier(encoder("resnet10", width), SHAPE.classes)
    return {
        "encoder": net.encoder.state_dict(),
        "head": net.head.state_dict(),
        "model": {"name": "resnet10", "width": width},
        "classes": ["a", "b", "c"],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.25, 0.5, 0.2],
        "scores": [{"epoch": 1, "step": 9, "test/top1": 60.0}, {"epoch": 2, "step": 18, "test/top1": 80.0}],
    }


def made():
    """What a student takes of the images that stage `inversion` has made."""
    return {"images": torch.arange(30 * 8 * 8 * 3).view(30, 8, 8, 3).to(torch.uint8), "labels": torch.arange(30) % 3}


def division(open_images=10):
    """What a student takes of a division's artefact: 10 clean images, 10 closed, and open ones."""
    labels = torch.arange(20 + open_images) % SHAPE.classes
    sets = torch.tensor([CLEAN] * 10 + [CLOSED] * 10 + [OPEN] * open_images)
    return {"indices": torch.arange(len(sets)), "given": labels, "predicted": labels, "labels": labels, "sets": sets}


def relabelled():
    """What a student takes of refined labels: all others than the given ones, with other weights."""
    images = torch.arange(SHAPE.images)
    return {"indices": images, "labels": (images + 1) % SHAPE.classes, "weights": (1 + images % 4) / 4}


def softened():
    """What a student takes of refined labels with relabel.soft: probabilities of the 3 classes, rows of sum 1."""
    rows = torch.arange(SHAPE.images * SHAPE.classes).view(SHAPE.images, SHAPE.classes) % 7 + 1.0
    return {**relabelled(), "probabilities": rows / rows.sum(dim=1, keepdim=True)}


def fill_memory(stage):
    """Something in place of what a stage would have seen, the same on all ranks: unit rows, or pixels."""
    for tensor in stage.memory.values():
        rows = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        tensor.copy_(F.normalize(rows, dim=-1) if tensor.is_floating_point() else 100 * rows.abs())


def batch_for(stage, **given):
    """A `batch` of what the stage learns from: views of images, or noise."""
    return batch(len(stage.views), latent=getattr(stage, "latent", None), **given)


def batch(views=1, size=10, rank=0, world=1, dtype=torch.float32, seed=1, open_images=7, latent=None):
    """This rank's part of one global batch of `size` samples; of `open_images` that come along, none for 0.

    latent: the samples are noise of so many dimensions, not images.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = [(size, 3, 8, 8)] * views if latent is None else [(size, latent)]
    images = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    labels = torch.randint(3, (size,), generator=generator)
    part = shard(size, rank, world)
    sizes = tuple(len(range(size)[shard(size, r, world)]) for r in range(world))
    indices, right = torch.arange(size), torch.rand(size, generator=generator) < 0.6
    more = batch(views, open_images, rank, world, dtype, seed + 1, 0) if open_images else None
    views = tuple(x[part] for x in images)
    return Batch(views, labels[part], 7 + indices[part], indices[part], sizes, 2, 5, right[part], more)
