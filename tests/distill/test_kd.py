from math import exp, log

import numpy as np
import pytest
import torch

from dist_rmd.distill.kd import kd_loss


def logits(rows=5, classes=4):
    return 3 * torch.randn(2, rows, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def softmax(row, temperature):
    total = sum(exp(z / temperature) for z in row)
    return [exp(z / temperature) / total for z in row]


@pytest.mark.parametrize("temperature", [0.5, 1, 4])
def test_is_the_formula(temperature):
    student, teacher = logits()
    expected = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        pairs = zip(softmax(t, temperature), softmax(s, temperature), strict=True)
        expected.append(temperature**2 * sum(p * log(p / q) for p, q in pairs))
    np.testing.assert_allclose(kd_loss(student, teacher, temperature).numpy(), expected, rtol=1e-12)


def test_a_student_that_agrees_has_nothing_to_learn():
    student, _ = logits()
    assert kd_loss(student, student + 7, 4).abs().max() < 1e-12  # a shift of all logits says nothing


def test_in_the_limit_of_high_temperatures_it_compares_centred_logits():
    """Hinton et al. sec. 2.1: the gradient becomes (z - v) / C."""
    student, teacher = logits(classes=4)
    student = (student - student.mean(dim=1, keepdim=True)).requires_grad_()
    teacher = teacher - teacher.mean(dim=1, keepdim=True)
    kd_loss(student, teacher, 1e4).sum().backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 4, rtol=1e-3, atol=1e-3)


def test_finite_differences():
    student, teacher = logits()
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, teacher, 4), student.requires_grad_())


def test_shards_of_a_batch_are_its_rows():
    student, teacher = logits(7)
    parts = [kd_loss(s, t, 4) for s, t in zip(student.split([4, 0, 3]), teacher.split([4, 0, 3]), strict=True)]
    assert torch.equal(torch.cat(parts), kd_loss(student, teacher, 4))


def test_no_gradient_reaches_the_teacher():
    student, teacher = (rows.requires_grad_() for rows in logits().unbind())
    kd_loss(student, teacher, 4).sum().backward()
    assert teacher.grad is None
    assert student.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (torch.tensor([[value, 0.0, -value]], dtype=dtype) for value in (6e4, -6e4))
    student.requires_grad_()
    found = kd_loss(student, teacher, 4)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(16 * 1.2e5 / 4, rel=1e-2)
    assert student.grad.isfinite().all()
    mixed = kd_loss(logits()[0].to(dtype), logits()[1].float(), 4)
    torch.testing.assert_close(mixed.double(), kd_loss(*logits(), 4), rtol=5e-2, atol=1e-2)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_temperatures_out_of_range(temperature):
    with pytest.raises(ValueError, match="must be positive"):
        kd_loss(*logits(), temperature)


@pytest.mark.parametrize("shapes", [((5, 7), (5, 6)), ((5, 7), (7,)), ((5,), (5,)), ((5, 1), (1, 5))])
def test_shapes_must_agree(shapes):
    with pytest.raises(ValueError, match="must be rows x classes of one size, got"):
        kd_loss(*(torch.zeros(shape) for shape in shapes), 4)
