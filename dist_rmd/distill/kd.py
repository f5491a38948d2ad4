"""Knowledge distillation (Hinton, Vinyals & Dean 2015, https://arxiv.org/abs/1503.02531, sec. 2).

A high temperature shows the student how probable the teacher finds the classes that it does not predict.
"""

import torch.nn.functional as F
from torch import Tensor


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """l_i = T^2 KL(softmax(t_i / T) || softmax(s_i / T)) -> N values >= 0.  No gradient reaches the teacher.

    student, teacher: logits s and t, N x C (any float type), of the same images.
    temperature: T > 0.  The factor T^2 keeps the size of the gradients about the same at any temperature.
    The computation is in float32, or float64 if an input is.
    Raises ValueError for a temperature out of range, and where the shapes differ.
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of distillation must be positive, got {temperature}")
    if student.dim() != 2 or student.shape != teacher.shape:
        shapes = " and ".join(str(tuple(logits.shape)) for logits in (student, teacher))
        raise ValueError(f"teacher's and student's logits must be rows x classes of one size, got {shapes}")
    s, t = (x.float() if x.itemsize < 4 else x for x in (student, teacher.detach()))
    log_s, log_t = (F.log_softmax(x / temperature, dim=1) for x in (s, t))
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(dim=1)
