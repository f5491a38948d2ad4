"""Evaluation: test accuracy and kNN, beside the forward pass alone and the loop that everybody writes."""

from collections.abc import Iterator
from typing import Literal

import torch

from dist_rmd.config import Augment, Data
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import EVALUATION_BATCH, Loaders
from dist_rmd.data.prepared.beton import Dataset, open_dataset
from dist_rmd.evaluation._splits import Splits
from dist_rmd.evaluation.accuracy import accuracy
from dist_rmd.evaluation.knn import knn
from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import ImageClassifier
from tools.bench_parts import peers
from tools.bench_parts.images import pixels
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table
from tools.bench_parts.timing import Way, turns

BASE = "plain PyTorch, DataLoader of PIL images"


def measure(settings: Settings) -> Iterator[Table]:
    dataset, device = open_dataset(settings.data), torch.device(settings.device)
    net = ImageClassifier(encoder(*settings.network), len(dataset.classes)).eval()
    net.to(device).to(memory_format=torch.channels_last)
    test, train = dataset.sizes["test"], dataset.sizes["train"]
    plain = peers.Images(pixels(dataset, "test", test), peers.plain_view())
    loader = peers.loader(plain, min(test, EVALUATION_BATCH), settings)
    peers.plain_accuracy(net, loader, settings.device)  # its workers fork before FFCV's threads are there
    ffcv, memory = (splits(dataset, reader, settings) for reader in ("ffcv", "memory"))
    held = [view for batch in memory.test().epoch(0) for view in batch.views]

    @torch.inference_mode()
    def forward() -> None:
        for view in held:
            net(view)

    ways: dict[str, Way] = {
        BASE: lambda: peers.plain_accuracy(net, loader, settings.device),
        "ours, FFCV": lambda: accuracy(net, ffcv),
        "ours, from memory": lambda: accuracy(net, memory),
        "the forward passes alone": forward,
    }
    times = turns(ways, settings.rounds, settings.device)
    network = "{}, width {}, fp32".format(*settings.network)
    yield Table(
        "Test accuracy",
        f"{network}, {test} images in batches of {EVALUATION_BATCH}.",
        [Row(name, times[name], None if name == BASE else BASE, test) for name in ways],
    )
    neighbours = turns({"kNN": lambda: knn(net, memory)}, settings.rounds, settings.device)
    yield Table(
        "kNN accuracy",
        f"{network}, from memory: features of {train} training and {test} test images, then the nearest of the former "
        "for each of the latter.",
        [Row("kNN", neighbours["kNN"], images=train + test)],
    )


def splits(dataset: Dataset, reader: Literal["ffcv", "memory"], settings: Settings) -> Splits:
    source = Loaders(dataset, Data(reader=reader), Augment(), 0, 1, torch.device(settings.device), settings.cores)
    labels = {name: LabelView.of(dataset.labels(name), len(dataset.classes)) for name in ("train", "test")}
    return Splits(
        train=lambda: source.evaluation("train", labels["train"]),
        test=lambda: source.evaluation("test", labels["test"]),
        classes=len(dataset.classes),
    )
