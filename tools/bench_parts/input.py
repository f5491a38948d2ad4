"""SimSiam's two views of every image: crop of 0.2 to 1 of the area, flip, colours, grey; no blur, as for CIFAR."""

from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from dist_rmd.config import Augment, Data
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.loaders import Loaders
from dist_rmd.data.prepared.beton import Dataset, open_dataset
from tools.bench_parts import peers
from tools.bench_parts.busy import Busy, busy
from tools.bench_parts.images import pixels
from tools.bench_parts.settings import Settings
from tools.bench_parts.tables import Row, Table, spread
from tools.bench_parts.timing import Way, gpu_peak, synchronise, tried, turns

BASE = "torchvision v1 (PIL), DataLoader"


def measure(settings: Settings) -> Iterator[Table]:
    dataset = open_dataset(settings.data)
    batch = settings.sized(512, 512, 64)
    images = settings.sized(8, 40, 2) * batch
    images = min(images, dataset.sizes["train"] // batch * batch)
    shown = pixels(dataset, "train", images)
    makers: dict[str, tuple[str, Callable[[], Way]]] = {  # the DataLoaders first: they fork
        BASE: ("", lambda: loaded(peers.Images(shown, peers.torchvision_v1()), batch, settings)),
        "torchvision v2 (uint8 tensors), DataLoader": (
            "",
            lambda: loaded(peers.Images(shown, peers.torchvision_v2(), pil=False), batch, settings),
        ),
        "lightly SimSiamTransform, DataLoader": (
            "lightly",
            lambda: loaded(peers.Images(shown, peers.lightly_views()), batch, settings),
        ),
        "kornia, whole batches on the device": ("kornia", lambda: kornia(shown, batch, settings)),
        "ours, FFCV": ("", lambda: ours(dataset, images, batch, settings, Data(reader="ffcv"))),
        "ours, from memory": ("", lambda: ours(dataset, images, batch, settings, Data(reader="memory"))),
        "ours, from memory, not compiled": (
            "",
            lambda: ours(dataset, images, batch, settings, Data(reader="memory", compile_views=False)),
        ),
    }
    if settings.alone:
        makers = {name: maker for name, maker in makers.items() if name.startswith("ours")}
    absent = {name: peers.missing(library) if library else "" for name, (library, _) in makers.items()}
    ways, failed = tried({name: make for name, (_, make) in makers.items() if not absent[name]})
    absent |= failed
    facts = {name: gpu_peak(way, settings.device) for name, way in ways.items()}
    least = 0.5 if not settings.quick else 0.0
    suffixes, beside = [""], f", beside {settings.beside} busy"
    with busy(settings.beside) as others:
        if settings.beside:
            suffixes.append(beside)
            ways |= {name + beside: within(others, way, settings.device) for name, way in ways.items()}
        times = turns(ways, settings.rounds, settings.device, least)
    for name in [name for name in times if name.endswith(beside)]:
        idle = times[name.removesuffix(beside)]
        facts[name] = {"of its speed alone": spread([a / b for a, b in zip(idle, times[name], strict=True)], 2)}
    yield Table(
        "Two views for SimSiam",
        f"Epochs of {images} images in batches of {batch}, two normalised float32 views of each, on the device. "
        f"DataLoaders have {settings.cores} workers. One order of the colour operations a batch in ours and kornia's, "
        "one an image in the others'."
        + " beside N busy: while N other processes compute, bound to no core." * bool(settings.beside),
        [
            Row(
                name + suffix, times.get(name + suffix, []), None if name == BASE else BASE + suffix, images,
                facts.get(name + suffix, {}), absent[name],
            )
            for suffix in suffixes
            for name in makers
        ],
    )  # fmt: skip


def within(others: Busy, way: Way, device: str) -> Way:
    """The way, while others are busy."""

    def beside() -> None:
        with others:
            way()
            synchronise(device)

    return beside


def loaded(images: peers.Images, batch: int, settings: Settings) -> Way:
    batches: DataLoader = peers.loader(images, batch, settings)

    def epoch() -> None:
        for views, _ in batches:
            for view in views:
                view.to(settings.device, non_blocking=True)

    return epoch


def kornia(shown: NDArray[np.uint8], batch: int, settings: Settings) -> Way:
    """The images are held on the device, as in ours from memory."""
    held = torch.from_numpy(shown).permute(0, 3, 1, 2).contiguous().to(settings.device)
    view = peers.kornia_views(settings.device)

    @torch.no_grad()
    def epoch() -> None:
        for chosen in torch.randperm(len(held), device=settings.device).split(batch):
            images = held[chosen].float() / 255
            for _ in range(2):
                view(images)

    return epoch


def ours(dataset: Dataset, images: int, batch: int, settings: Settings, data: Data) -> Way:
    source = Loaders(dataset, data, Augment(), 0, 1, torch.device(settings.device), settings.cores)
    labels = LabelView.of(dataset.labels("train")[:images], len(dataset.classes))
    loader, epochs = source.training(labels, ("strong", "strong"), batch, seed=0), count()

    def epoch() -> None:
        for _ in loader.epoch(next(epochs)):
            pass

    return epoch
