"""Where a small step in an image moves what is said of it most (Miyato et al. 2017, https://arxiv.org/abs/1704.03976)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_rmd.data.augment import keyed_rng


def random_directions(like: Tensor, sizes: Sequence[int], rank: int, seed: int, epoch: int, number: int) -> Tensor:
    """Unit vectors of the shape of this rank's images `like`, b x ..., one for each, evenly over the sphere.

    sizes: the b of all ranks.  A number is a hash of (seed, epoch, number of the batch, place in the global batch).
    """
    numbers = like[0].numel() if len(like) else 0
    places = torch.arange(len(like) * numbers, device=like.device) + sum(sizes[:rank]) * numbers
    bits = keyed_rng.bits(seed, epoch, number, "direction", places)
    normals = torch.special.ndtri((bits + 0.5) * 2**-32)
    return unit(normals.view(like.shape).to(like.dtype))


def unit(directions: Tensor) -> Tensor:
    """Each of b x ... scaled to length 1, or left at zero."""
    flat = directions.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)  # squares may be 0
    return F.normalize(flat).view(directions.shape)


def steepest(distance: Callable[[Tensor], Tensor], start: Tensor, xi: float) -> Tensor:
    """One step of the power iteration: the direction in which `distance` grows most, from `xi` times `start` on.

    distance: b x ... steps in the images -> 0-d.  start: b unit vectors.  -> b unit vectors, without gradient.
    """
    step = (xi * start).detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(distance(step), step)
    return unit(gradient)
