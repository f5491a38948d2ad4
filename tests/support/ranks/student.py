"""DATA FOLDER: what a teacher makes of all images, as this rank has it -> FOLDER/<rank>.pt."""

import sys
from pathlib import Path

import numpy as np
import torch

from dist_rmd.config import Augment, Data
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.distributed import processes
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier, frozen_classifier
from dist_rmd.stages._student import score_images


def labels() -> LabelView:
    """1,100 images in an order of their own: two batches of 512 and a smaller one."""
    order = np.random.default_rng(0).permutation(1437)[:1100]
    return LabelView(order, order % 10, None, 10)


def teacher() -> dict:
    torch.manual_seed(0)
    net = ImageClassifier(encoder("resnet10", 8), 10)
    model = {"name": "resnet10", "width": 8}
    return {"encoder": net.encoder.state_dict(), "head": net.head.state_dict(), "model": model, "classes": ["x"] * 10}


def opened(data, rank=0, world=1) -> Loaders:
    device = torch.device("cpu")
    return Loaders(open_dataset(Path(data)), Data(reader="memory"), Augment(), rank, world, device, cores=1)


def features(data, rank=0, world=1) -> torch.Tensor:
    """The teacher's logits and the given labels of all images, as every rank has them."""
    net = frozen_classifier(teacher())
    torch.set_num_threads(1)

    def judge(images, given):
        return torch.cat([net(images)[0], given[:, None]], dim=1)

    return score_images(opened(data, rank, world), labels(), judge, lambda share: None)


if __name__ == "__main__":
    world = processes.detect("cpu")
    processes.start(world, timeout=60)
    torch.save(features(sys.argv[1], world.rank, world.size), f"{sys.argv[2]}/{world.rank}.pt")
    processes.stop()
