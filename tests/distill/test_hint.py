import numpy as np
import pytest
import torch

from dist_rmd.distill.hint import hint_loss


def features(*shape):
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 2, 4)])
def test_is_the_formula(shape):
    student, teacher = features(*shape)
    expected = []
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        squares = [(a - b) ** 2 for a, b in zip(s.ravel(), t.ravel(), strict=True)]
        expected.append(sum(squares) / len(squares))
    np.testing.assert_allclose(hint_loss(student, teacher).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 2, 2)])
def test_finite_differences(shape):
    student, teacher = features(*shape)
    assert torch.autograd.gradcheck(lambda s: hint_loss(s, teacher), student.requires_grad_())


def test_limits():
    student, _ = features(5, 7)
    assert not hint_loss(student, student).any()
    torch.testing.assert_close(hint_loss(student + 3, student), torch.full((5,), 9.0, dtype=torch.float64))


def test_shards_of_a_batch_are_its_rows():
    student, teacher = features(7, 4)
    parts = [hint_loss(s, t) for s, t in zip(student.split([4, 0, 3]), teacher.split([4, 0, 3]), strict=True)]
    assert torch.equal(torch.cat(parts), hint_loss(student, teacher))


def test_no_gradient_reaches_the_teacher():
    student, teacher = (rows.requires_grad_() for rows in features(5, 7).unbind())
    hint_loss(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (torch.tensor([[value, 0.001]], dtype=dtype) for value in (6e4, -6e4))
    student.requires_grad_()
    found = hint_loss(student, teacher)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(1.2e5**2 / 2, rel=1e-2)
    assert student.grad.dtype == dtype
    mixed = hint_loss(features(5, 7)[0].to(dtype), features(5, 7)[1].float())  # autocast gives such pairs
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.double(), hint_loss(*features(5, 7)), rtol=2e-2, atol=0)


@pytest.mark.parametrize("shapes", [((5, 7), (5, 6)), ((5, 7), (7,)), ((5,), (5,)), ((5, 1), (1, 5))])
def test_shapes_must_agree(shapes):
    with pytest.raises(ValueError, match="must be rows of one shape, got"):
        hint_loss(*(torch.zeros(shape) for shape in shapes))
