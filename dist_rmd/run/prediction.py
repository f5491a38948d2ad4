"""Classifies images of any size with a trained network."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dist_rmd.data.augment.views import Views
from dist_rmd.data.images.pictures import fit, read_image
from dist_rmd.run.artefacts import Origin

BATCH = 256
"""number of images that are decoded and classified at once"""

Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor
"""the path of an image file, a PIL image, or the pixels H x W x 3 (RGB) or H x W (grey), uint8 in 0..255"""


@dataclass(frozen=True)
class Prediction:
    """The predictions of a network for N images."""

    classes: list[str]
    """name of the most probable class of each image"""
    probabilities: NDArray[np.float32]
    """N x C, softmax of the network's logits; rows sum to 1"""
    names: tuple[str, ...]
    """names of the C classes, in the order of the columns"""


class Normalised:
    """Turns pixels n x S x S x 3 uint8 into the normalised input of networks of this origin, on `device`."""

    def __init__(self, origin: Origin, device: torch.device):
        self.device = device
        self._views = Views(("plain",), origin.side, origin.mean, origin.std, seed=0, compiled=False)

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        batch = torch.from_numpy(pixels).to(self.device)
        (view,) = self._views(batch, torch.arange(len(batch), device=self.device), epoch=0, batch=0)
        return view


def predict(net: nn.Module, origin: Origin, images: Picture | Sequence[Picture]) -> Prediction:
    """Classify the images with `net`, a classifier from an artefact with this origin.

    Images are resized and cropped as `prepare` does, and normalised as in training.
    Raises UnreadableImage, which names the file, and ValueError for pixels that are not as `Picture` says.
    """
    found = [logits.softmax(dim=1) for logits in _outputs(lambda view: net(view)[0], net, origin, images)]
    probabilities = torch.cat(found).numpy() if found else np.zeros((0, len(origin.classes)), np.float32)
    best = probabilities.argmax(axis=1) if found else []
    return Prediction([origin.classes[label] for label in best], probabilities, origin.classes)


def features(net: nn.Module, origin: Origin, images: Picture | Sequence[Picture]) -> NDArray[np.float32]:
    """The features of the images by `net.encoder`, N x D float32; images as in `predict`."""
    encoder = net.get_submodule("encoder")
    found = [*_outputs(encoder, net, origin, images)]
    return torch.cat(found).numpy() if found else np.zeros((0, int(encoder.out_features)), np.float32)  # type: ignore[arg-type]


def _outputs(
    apply: Callable[[Tensor], Tensor], net: nn.Module, origin: Origin, images: Picture | Sequence[Picture]
) -> Iterator[Tensor]:
    """Yield apply's outputs for the images, a batch at a time: float32 rows on the CPU."""
    several: Sequence[Any] = [images] if _is_one(images) else images  # type: ignore[assignment]
    normalised = Normalised(origin, next(net.parameters()).device)
    for pixels in _batches(several, origin.side):
        with torch.no_grad():
            yield apply(normalised(pixels)).float().cpu()


def _is_one(images: Any) -> bool:
    """Whether `images` is a single image.  Pixels of three dimensions are one image if the last is three colours."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[2] == 3)
    return isinstance(images, str | Path | Image.Image)


def _batches(pictures: Sequence[Picture], side: int) -> Iterator[NDArray[np.uint8]]:
    for first in range(0, len(pictures), BATCH):
        yield np.stack([_pixels(picture, side) for picture in pictures[first : first + BATCH]])


def _pixels(picture: Picture, side: int) -> NDArray[np.uint8]:
    """The pixels of an image, resized and cropped as `prepare` does: side x side x 3 uint8."""
    if isinstance(picture, str | Path):
        return read_image(Path(picture), side)
    if not isinstance(picture, Image.Image):
        array = np.asarray(picture)
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
            raise ValueError(f"an image must be H x W x 3 or H x W of uint8, got {array.dtype} of shape {array.shape}")
        picture = Image.fromarray(array)
    return fit(picture, side)
