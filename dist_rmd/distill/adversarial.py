"""Finds the small step in an image that changes a prediction most (Miyato et al., https://arxiv.org/abs/1704.03976)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_rmd.data.augment import keyed_rng


def random_directions(like: Tensor, sizes: Sequence[int], rank: int, seed: int, epoch: int, number: int) -> Tensor:
    """Draw a unit vector for each of this rank's images, uniform over the sphere: b x ..., the shape of `like`.

    sizes: the b of all ranks.  Each random number is a hash of (seed, epoch, number of the batch, place in the global
    batch), so that the directions do not depend on the number of ranks.
    """
    numbers = like[0].numel() if len(like) else 0
    places = torch.arange(len(like) * numbers, device=like.device) + sum(sizes[:rank]) * numbers
    bits = keyed_rng.bits(seed, epoch, number, "direction", places)
    return unit(keyed_rng.normal(bits).view(like.shape).to(like.dtype))


def unit(directions: Tensor) -> Tensor:
    """Scale each of b vectors (b x ...) to length 1; a zero vector stays zero."""
    flat = directions.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)  # squares may be 0
    return F.normalize(flat).view(directions.shape)


def steepest(distance: Callable[[Tensor], Tensor], start: Tensor, xi: float) -> Tensor:
    """One step of the power iteration: the directions in which `distance` grows most, seen from xi * start.

    distance: a function, steps in the images (b x ...) -> 0-d.  start: b unit vectors, b x ....
    Returns b unit vectors, without gradient.
    """
    step = (xi * start).detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(distance(step), step)
    return unit(gradient)
