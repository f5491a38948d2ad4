"""Extracts the features of a whole split, the same on any number of ranks."""

import torch
from torch import Tensor, nn

from dist_rmd.distributed.collectives import all_gather_rows, gather_sizes
from dist_rmd.evaluation._splits import Images


@torch.inference_mode()
def extract(encoder: nn.Module, loader: Images) -> tuple[Tensor, Tensor, Tensor]:
    """Features of this rank's share of the loader's images: (features n x D float32, labels n, indices n)."""
    parts = [(encoder(*batch.views).float(), batch.labels, batch.indices) for batch in loader.epoch(0)]
    features, labels, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    return features, labels, indices


@torch.inference_mode()
def extract_all(encoder: nn.Module, loader: Images) -> tuple[Tensor, Tensor, Tensor]:
    """Features of all N images on every rank, ordered by index: (features N x D float32, labels N, indices N)."""
    own = extract(encoder, loader)
    sizes = gather_sizes(len(own[0]), own[0].device)
    features, labels, indices = (all_gather_rows(column, sizes) for column in own)
    order = indices.argsort()
    return features[order], labels[order], indices[order]
