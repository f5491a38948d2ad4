"""Pictures of a stage's images for TensorBoard: views under their given labels, and images that a stage makes."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.prepared.beton import Dataset

SHOWN = 64
"""most views in the picture"""
LEAST = 64
"""smallest side of a view in pixels, so that a label fits beneath"""
LINE = 12
"""height of the label's line in pixels"""


def views(dataset: Dataset, batch: Batch) -> Tensor:
    """Views of the first samples, enlarged and framed, each over its given label: n x 3 x H x W float in [0, 1].

    The views of one sample follow each other.  A label that is known to be wrong is red.
    """
    each = len(batch.views)
    shown = [F.interpolate(view[:SHOWN].float().cpu(), dataset.side) for view in batch.views]  # smaller ones enlarged
    first = torch.stack(shown, dim=1)  # n x views x 3 x S x S
    pixels = framed(dataset, first.flatten(0, 1)[:SHOWN])
    zoom = -(-LEAST // pixels.shape[-1])
    pixels = pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    right = torch.ones_like(batch.labels, dtype=torch.bool) if batch.right is None else batch.right
    lines = [
        _line(dataset.classes[label], is_right, pixels.shape[-1])
        for label, is_right in zip(batch.labels[:SHOWN].tolist(), right[:SHOWN].tolist(), strict=True)
        for _ in range(each)
    ]
    return torch.cat([pixels, torch.stack(lines[: len(pixels)])], dim=2)


def framed(dataset: Dataset, images: Tensor) -> Tensor:
    """Normalised images n x 3 x S x S, enlarged and framed: n x 3 x H x W in [0, 1]."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (dataset.mean, dataset.std))
    pixels = (images.float().cpu() * std + mean).clamp(0, 1)
    zoom = max(1, 32 // dataset.side)
    return F.pad(pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3), (1, 1, 1, 1))


def _line(label: str, is_right: bool, width: int) -> Tensor:
    """Draw a line of text, cut where it does not fit: 3 x LINE x width."""
    picture = Image.new("RGB", (width, LINE))
    colour = "white" if is_right else "#ff6060"
    ImageDraw.Draw(picture).text((1, 0), label, fill=colour, font=ImageFont.load_default())
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
