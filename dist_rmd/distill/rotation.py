"""Rotated images for the task of predicting rotations (Gidaris et al. 2018, https://arxiv.org/abs/1803.07728).

The task needs no labels: in MODUL (sec. IV-C.2, eq. 17 and 18), the student predicts rotations of open-set images.
"""

import torch
from torch import Tensor


def rotated(images: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate images b x C x S x S -> images 4b x C x S x S in the same memory format, and labels 4b int64 in 0..3.

    Row 4 i + j is image i rotated counter-clockwise by j * 90 degrees, and has label j.
    Raises ValueError for images that are not square.
    """
    if images.dim() != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"images to be turned must be b x C x S x S, got {tuple(images.shape)}")
    turned = torch.stack([torch.rot90(images, j, (2, 3)) for j in range(4)], dim=1).flatten(0, 1)
    if images.is_contiguous(memory_format=torch.channels_last):
        turned = turned.contiguous(memory_format=torch.channels_last)
    return turned, torch.arange(4, device=images.device).repeat(len(images))
