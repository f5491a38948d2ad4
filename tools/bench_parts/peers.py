"""What users of other libraries write: SimSiam's two views, and the training loop of lightly's examples.

A library that is not there is named with the reason, and its rows stay empty.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from dist_rmd.models.encoder import encoder
from dist_rmd.models.heads import predictor, projector
from tools.bench_parts.images import SIDE
from tools.bench_parts.settings import Settings
from tools.bench_parts.timing import Stopwatch

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
Transform = Callable[..., object]


USED = {
    "lightly": ("lightly.loss", "lightly.models.modules.heads", "lightly.transforms"),
    "kornia": ("kornia.augmentation",),
    "cleanlab": ("cleanlab.rank",),
}
"""library -> the modules of it that are used here: a package may be there and lack what these import"""


def missing(library: str) -> str:
    """Why `library` cannot be used; nothing if it can."""
    try:
        for module in USED[library]:
            importlib.import_module(module)
    except ImportError as error:
        log = Path(__file__).resolve().parents[2] / ".bench-venv" / f"{library}.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return f"not installed: {next((line for line in lines if line.startswith('ERROR')), error)}"
    return ""


class Images(TorchDataset):
    """N x 32 x 32 x 3 uint8 -> (what `transform` makes of a PIL image, or of a 3 x 32 x 32 tensor; a label)."""

    def __init__(self, pixels: NDArray[np.uint8], transform: Transform, pil: bool = True):
        self.pixels, self.transform, self.pil = pixels, transform, pil

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[object, int]:
        image = Image.fromarray(self.pixels[i]) if self.pil else torch.from_numpy(self.pixels[i]).permute(2, 0, 1)
        return self.transform(image), i % 10


def loader(images: Images, batch: int, settings: Settings) -> DataLoader:
    """Shuffled batches from as many workers as there are cores."""
    return DataLoader(
        images, batch, shuffle=True, drop_last=True, num_workers=settings.cores, persistent_workers=True,
        pin_memory=settings.gpu,
    )  # fmt: skip


class TwoViews:
    """image -> two views of it"""

    def __init__(self, view: Callable[[object], Tensor]):
        self.view = view

    def __call__(self, image: object) -> tuple[Tensor, Tensor]:
        return self.view(image), self.view(image)


def torchvision_v1() -> Transform:
    return TwoViews(
        v1.Compose(
            [
                v1.RandomResizedCrop(SIDE, scale=(0.2, 1.0)),
                v1.RandomHorizontalFlip(),
                v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v1.RandomGrayscale(0.2),
                v1.ToTensor(),
                v1.Normalize(MEAN, STD),
            ]
        )
    )


def torchvision_v2() -> Transform:
    return TwoViews(
        v2.Compose(
            [
                v2.RandomResizedCrop(SIDE, scale=(0.2, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )
    )


def lightly_views() -> Transform:
    from lightly.transforms import SimSiamTransform

    return SimSiamTransform(input_size=SIDE, gaussian_blur=0.0, normalize={"mean": list(MEAN), "std": list(STD)})


def kornia_views(device: str) -> Callable[[Tensor], Tensor]:
    """b x 3 x 32 x 32 float in 0..1 -> one view of each."""
    from kornia import augmentation

    return nn.Sequential(
        augmentation.RandomResizedCrop((SIDE, SIDE), scale=(0.2, 1.0)),
        augmentation.RandomHorizontalFlip(),
        augmentation.ColorJiggle(0.4, 0.4, 0.4, 0.1, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
        augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ).to(device)


def plain_view() -> Transform:
    """What an evaluation sees."""
    return v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)])


class LightlyNet(nn.Module):
    """SimSiam from lightly's parts: its CIFAR ResNet, with heads of the product's sizes."""

    def __init__(self, name: str, width: int):
        super().__init__()
        from lightly.models import ResNetGenerator
        from lightly.models.modules.heads import ProjectionHead, SimSiamPredictionHead

        resnet = ResNetGenerator({"resnet10": "resnet-9", "resnet18": "resnet-18"}[name], width=width / 64)
        self.backbone = nn.Sequential(*list(resnet.children())[:-1], nn.AdaptiveAvgPool2d(1))
        self.projection_head = ProjectionHead(
            [
                (8 * width, 2048, nn.BatchNorm1d(2048), nn.ReLU()),
                (2048, 2048, nn.BatchNorm1d(2048, affine=False), None),
            ]
        )
        self.prediction_head = SimSiamPredictionHead(2048, 512, 2048)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.projection_head(self.backbone(x).flatten(start_dim=1))
        return z.detach(), self.prediction_head(z)


class PlainNet(nn.Module):
    """SimSiam from the product's networks, called view by view."""

    def __init__(self, name: str, width: int):
        super().__init__()
        self.encoder = encoder(name, width)
        self.projector = projector(self.encoder.out_features, 2048, 2048, 2)
        self.predictor = predictor(2048, 512)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.projector(self.encoder(x))
        return z.detach(), self.predictor(z)


def plain_loss(z: Tensor, p: Tensor) -> Tensor:
    return -torch.nn.functional.cosine_similarity(p, z).mean()


def lightly_epochs(settings: Settings, pixels: NDArray[np.uint8], batch: int, tricks: bool) -> "PlainEpochs":
    """lightly's network, loss and transform."""
    from lightly.loss import NegativeCosineSimilarity

    net = LightlyNet(*settings.network)
    return PlainEpochs(settings, Images(pixels, lightly_views()), batch, net, NegativeCosineSimilarity(), tricks)


def plain_epochs(settings: Settings, pixels: NDArray[np.uint8], batch: int, tricks: bool) -> "PlainEpochs":
    """torch and torchvision alone, where lightly cannot be had."""
    images = Images(pixels, torchvision_v1())
    return PlainEpochs(settings, images, batch, PlainNet(*settings.network), plain_loss, tricks)


class PlainEpochs:
    """The training loop of lightly's SimSiam example; each call is an epoch of all of `images`.

    tricks: channels_last, torch.compile, fused SGD and, on GPUs, cudnn.benchmark and copies that nobody waits for.
    The precision is the product's in either case.
    """

    def __init__(
        self,
        settings: Settings,
        images: Images,
        batch: int,
        net: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        tricks: bool,
    ):
        self.settings, self.tricks, self.watch = settings, tricks, Stopwatch(settings.device)
        self.loader = loader(images, batch, settings)
        net = net.to(settings.device)
        if tricks:
            net = torch.compile(net.to(memory_format=torch.channels_last))  # type: ignore[assignment]
        self.net, self.criterion = net, criterion
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4, fused=tricks)

    def __call__(self) -> None:
        torch.backends.cudnn.benchmark = self.tricks
        settings, watch, device = self.settings, self.watch, self.settings.device
        self.net.train()
        total = torch.zeros((), device=device)
        watch.start()
        for (x0, x1), _ in self.loader:
            x0, x1 = (x.to(device, non_blocking=self.tricks) for x in (x0, x1))
            if self.tricks:
                x0, x1 = (x.contiguous(memory_format=torch.channels_last) for x in (x0, x1))
            watch.mark("data wait")
            with torch.autocast(device, settings.autocast, enabled=settings.autocast is not None):
                z0, p0 = self.net(x0)
                z1, p1 = self.net(x1)
                loss = 0.5 * (self.criterion(z0, p1) + self.criterion(z1, p0))
            watch.mark("forward")
            loss.backward()
            watch.mark("backward")
            self.optimizer.step()
            self.optimizer.zero_grad()
            watch.mark("optimizer")
            total += loss.detach()
            watch.mark("rest")
        torch.backends.cudnn.benchmark = False
        assert total.isfinite()


def plain_accuracy(net: nn.Module, batches: DataLoader, device: str) -> float:
    """Top-1 accuracy as everybody writes it; `net` gives logits first."""
    right = 0
    net.eval()
    with torch.no_grad():
        for images, labels in batches:
            predicted = net(images.to(device))[0].argmax(dim=1)
            right += int((predicted == labels.to(device)).sum())
    return right / len(batches.dataset)  # type: ignore[arg-type]
