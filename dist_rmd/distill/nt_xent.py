"""NT-Xent over the global batch, the contrast of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709, eq. 1)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_rmd.distributed.collectives import gather_rows, rank


def nt_xent(z1: Tensor, z2: Tensor, sizes: Sequence[int], temperature: float) -> Tensor:
    """Mean over both views of -log softmax of an image's other view among all other rows -> b values >= 0.

    l(a, p) = -log(exp(a . p / temperature) / sum_{r != a} exp(a . r / temperature)), where r goes over the 2B
    projections of both views of all ranks' images, and all projections are scaled to unit length.

    z1, z2: this rank's projections of the two views, b x D (any float type), both with gradient.
    sizes: the b of all ranks, in rank order, which sum to B.
    temperature: > 0.

    The computation is in float32 (float64 if an input is), also under autocast.  The backward pass is a collective.
    Raises ValueError for a temperature out of range, and where the shapes differ.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of NT-Xent must be positive, got {temperature}")
    if z1.dim() != 2 or z1.shape != z2.shape:
        shapes = " and ".join(str(tuple(rows.shape)) for rows in (z1, z2))
        raise ValueError(f"the projections of two views must be rows x width of one size, got {shapes}")
    dtype = torch.promote_types(torch.promote_types(z1.dtype, z2.dtype), torch.float32)
    rows, first = sum(sizes), sum(sizes[: rank()])
    own = torch.arange(first, first + len(z1), device=z1.device)  # places of this rank's images in the global batch
    with torch.autocast(z1.device.type, enabled=False):
        z = F.normalize(torch.stack([z1.to(dtype), z2.to(dtype)], dim=1), dim=2)  # b x 2 x D
        all1, all2 = gather_rows(z, sizes).unbind(1)  # B x D each, in one collective
        everything = torch.cat([all1, all2]).T  # D x 2B
        itself = own[:, None] == torch.arange(rows, device=own.device)  # b x B
        none = torch.zeros_like(itself)
        logits1, logits2 = (view @ everything / temperature for view in z.unbind(1))  # b x 2B each
        logits1 = logits1.masked_fill(torch.cat([itself, none], dim=1), float("-inf"))
        logits2 = logits2.masked_fill(torch.cat([none, itself], dim=1), float("-inf"))
        to_second = F.cross_entropy(logits1, own + rows, reduction="none")
        to_first = F.cross_entropy(logits2, own, reduction="none")
        return (to_second + to_first) / 2
