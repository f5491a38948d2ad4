"""Class prototypes of a teacher, and the contrast of embeddings with prototypes (MODUL sec. IV-B.1, eq. 9 and 11).

The prototype of a class is the mean direction of the embeddings of the class's images.  A class without images has a
zero row in place of a prototype, and the loss leaves the class out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_rmd.distributed.collectives import all_reduce_sum

SHORTEST = 1e-9
"""a mean of unit rows that is no longer than this length is mere rounding and has no direction"""


def class_sums(z: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Sum embeddings by class over the rows of all ranks, for `prototypes`; equal on all ranks, without gradient.

    z: this rank's n x D rows (any float type; n may be 0 and differ by rank).  labels: n int64 in [0, classes).
    Returns sums (classes x D) and counts (classes).  Sums and counts of several calls may be added.  Both are float64,
    so that a prototype rounded to float32 does not depend on how the rows are spread over ranks and calls.
    """
    # A matrix product, since index_add_ on GPUs adds in an order that changes from run to run.
    chosen = F.one_hot(labels, classes).double()  # n x K
    rows = torch.cat([z.detach().double(), chosen.new_ones(len(z), 1)], dim=1)  # n x (D + 1)
    with torch.autocast(z.device.type, enabled=False):
        totals = all_reduce_sum(chosen.T @ rows)  # one collective
    return totals[:, :-1], totals[:, -1]


def prototypes(sums: Tensor, counts: Tensor) -> Tensor:
    """The prototypes by eq. 9, the means of each class at unit length: sums K x D, counts K -> K x D, type of `sums`.

    The row of a class is zero where the class has no images or its embeddings cancel out.
    """
    means = sums / counts.clamp_min(1)[:, None]
    length = torch.linalg.vector_norm(means, dim=1, keepdim=True)
    return torch.where(length > SHORTEST, means / length.clamp_min(SHORTEST), 0)


def prototypical_loss(z: Tensor, labels: Tensor, prototypes: Tensor, temperature: float = 0.3) -> Tensor:
    """Eq. 11: l_i = -log softmax_k(z_i . prototype_k / temperature) at the label of i -> b values >= 0.

    z: b x D of unit length (any float type).  labels: b int64 in [0, K).  prototypes: K x D, from `prototypes`.
    temperature: > 0; 0.3 in the paper.
    Classes with a zero row take no part in the softmax; an embedding labelled with such a class has loss and gradient
    zero.  The computation is in float32 (float64 if z is), also under autocast.
    Raises ValueError for a temperature out of range.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of prototypes must be positive, got {temperature}")
    z = z.float() if z.itemsize < 4 else z
    present = prototypes.any(dim=1)  # K
    with torch.autocast(z.device.type, enabled=False):
        logits = (z @ prototypes.to(z.dtype).T / temperature).masked_fill(~present, float("-inf"))  # b x K
        unknown = -100
        targets = torch.where(present[labels], labels, unknown)
        return F.cross_entropy(logits, targets, reduction="none", ignore_index=unknown)
