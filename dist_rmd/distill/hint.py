"""The mean square error between features of two networks (FitNets, Romero et al. 2015, https://arxiv.org/abs/1412.6550).

MODUL (eq. 20) takes this error on the features before the last layer.
"""

from torch import Tensor


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """l_i = mean over the features of (student_i - teacher_i)^2 -> b values >= 0.  No gradient reaches the teacher.

    student, teacher: b x ... of the same shape (any float type); all dimensions but the first are features.
    The computation is in float32, or float64 if an input is.
    Raises ValueError where the shapes differ.
    """
    if student.dim() < 2 or student.shape != teacher.shape:
        shapes = " and ".join(str(tuple(features.shape)) for features in (student, teacher))
        raise ValueError(f"teacher's and student's features must be rows of one shape, got {shapes}")
    s, t = (x.float() if x.itemsize < 4 else x for x in (student, teacher.detach()))
    return (s - t).square().flatten(1).mean(dim=1)
