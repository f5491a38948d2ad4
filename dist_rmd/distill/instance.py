"""The instance-level contrast of MODUL (sec. IV-B.2, eq. 13), the N-pair loss of Sohn (NeurIPS 2016) between networks.

The loss draws each image's student embedding to the teacher's embedding of the same image, and away from the teacher's
embeddings of other images.  As embeddings have unit length, a temperature of 1 leaves little to learn: over 64 images
the loss begins near log 64 = 4.16 and cannot fall below 3.17.  With 0.3, as in the authors' code, the loss can fall to
1.14.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_rmd.distributed.collectives import gather_rows, rank


def instance_loss(
    student: Tensor,
    teacher: Tensor,
    sizes: Sequence[int],
    temperature: float = 1.0,
    student_negatives: bool = False,
) -> Tensor:
    """l_i = log(1 + sum_{j != i} exp((s_i . t_j - s_i . t_i) / temperature)) -> b values > 0; j over all ranks' rows.

    student, teacher: this rank's rows s and t, b x D of unit length (any float type), of the same images.  Both get
        gradients, since the teacher's projection is trained, too.
    sizes: the b of all ranks, in rank order.
    temperature: > 0; the paper has no temperature, which is 1.
    student_negatives: the other images' student embeddings are negatives as well, as in the authors' code: the sum also
        has exp((s_i . s_j - s_i . t_i) / temperature) for all j != i.

    The computation is in float32 (float64 if an input is), also under autocast.  The backward pass is a collective.
    Raises ValueError for a temperature out of range, and where the shapes differ.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of instances must be positive, got {temperature}")
    if student.dim() != 2 or student.shape != teacher.shape:
        shapes = " and ".join(str(tuple(rows.shape)) for rows in (student, teacher))
        raise ValueError(f"teacher's and student's embeddings must be rows x width of one size, got {shapes}")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    s, t = student.to(dtype), teacher.to(dtype)
    first = sum(sizes[: rank()])
    own = torch.arange(first, first + len(s), device=s.device)  # places of this rank's images in the global batch
    with torch.autocast(s.device.type, enabled=False):
        if student_negatives:
            all_s, all_t = gather_rows(torch.cat([s, t], dim=1), sizes).chunk(2, dim=1)  # one collective
            itself = F.one_hot(own, sum(sizes)).bool()  # b x B
            logits = torch.cat([s @ all_t.T, (s @ all_s.T).masked_fill(itself, float("-inf"))], dim=1)  # b x 2B
        else:
            logits = s @ gather_rows(t, sizes).T  # b x B
        # The loss is the cross entropy of finding an image's own teacher embedding among those of all images.
        return F.cross_entropy(logits / temperature, own, reduction="none")
