import numpy as np
import pytest
import torch

from dist_rmd.distill.dist import dist_loss

ROWS = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_is_the_papers_correlations_of_rows_and_of_columns():
    t, s = ROWS.numpy()
    inter = np.mean([1 - np.corrcoef(t[i], s[i])[0, 1] for i in range(6)])
    intra = np.mean([1 - np.corrcoef(t[:, j], s[:, j])[0, 1] for j in range(5)])
    np.testing.assert_allclose(dist_loss(*ROWS, [6]), (inter, intra), rtol=1e-12)
    half = dist_loss(*ROWS.bfloat16(), [6])
    assert half.inter.dtype == torch.float32
    np.testing.assert_allclose(half, (inter, intra), rtol=0.02)


def test_only_the_student_learns_by_finite_differences():
    teacher, student = (rows.clone().requires_grad_() for rows in ROWS)
    assert torch.autograd.gradcheck(lambda s: tuple(dist_loss(teacher, s, [6])), [student])
    sum(dist_loss(teacher, student, [6])).backward()
    assert teacher.grad is None


def test_scale_and_shift_of_a_row_change_nothing_in_it():
    teacher, student = ROWS
    assert dist_loss(teacher, 3 * teacher + 2, [6]).inter.item() == pytest.approx(0, abs=1e-12)
    constant = dist_loss(teacher, torch.ones_like(student, requires_grad=True), [6])
    assert constant.inter.item() == constant.intra.item() == 1
    sum(constant).backward()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(6, 5\) and \(6, 4\)"):
        dist_loss(ROWS[0], ROWS[1, :, :4], [6])
