from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.ranks.terms import INSTANCE_FORMS, ROWS, Heads, instance, whole_batch

from dist_rmd.distill.instance import instance_loss

every_form = pytest.mark.parametrize(("temperature", "student_negatives"), INSTANCE_FORMS)
embeddings = F.normalize(torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=2)


def naive(student, teacher, temperature, student_negatives):
    """The formula, row by row."""
    s, t = student.detach().double().numpy(), teacher.detach().double().numpy()
    values = []
    for i in range(len(s)):
        total = 1.0
        for j in range(len(s)):
            if j != i:
                total += exp((s[i] @ t[j] - s[i] @ t[i]) / temperature)
                total += student_negatives * exp((s[i] @ s[j] - s[i] @ t[i]) / temperature)
        values.append(log(total))
    return np.array(values)


@every_form
def test_is_the_formula(temperature, student_negatives):
    student, teacher = embeddings
    found = instance_loss(student, teacher, [6], temperature, student_negatives)
    np.testing.assert_allclose(found.numpy(), naive(student, teacher, temperature, student_negatives), rtol=1e-12)


def test_defaults_are_the_papers():
    assert torch.equal(instance_loss(*embeddings, [6]), instance_loss(*embeddings, [6], 1.0, False))


@every_form
def test_finite_differences_of_both_networks(temperature, student_negatives):
    inputs = [rows.clone().requires_grad_() for rows in embeddings]
    assert torch.autograd.gradcheck(lambda s, t: instance_loss(s, t, [6], temperature, student_negatives), inputs)


@pytest.mark.parametrize(("student_negatives", "candidates"), [(False, 64), (True, 127)])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_equal_rows_leave_a_guess_among_all_candidates(temperature, student_negatives, candidates):
    rows = F.normalize(torch.ones(64, 8), dim=1)
    found = instance_loss(rows, rows, [64], temperature, student_negatives)
    torch.testing.assert_close(found, torch.full((64,), log(candidates)))


@pytest.mark.parametrize(("temperature", "least"), [(1.0, 3.17), (0.3, 1.14)])
def test_the_least_value_of_64_images_is_that_of_a_simplex(temperature, least):
    corners = F.normalize(torch.eye(64, dtype=torch.float64) - 1 / 64, dim=1)
    found = instance_loss(corners, corners, [64], temperature)
    assert found.mean().item() == pytest.approx(least, abs=5e-3)
    near = F.normalize(corners + 0.1 * torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)), dim=2)
    assert instance_loss(*near, [64], temperature).mean() > found.mean()


@every_form
def test_an_image_alone_has_nothing_to_be_told_from(temperature, student_negatives):
    student, teacher = (rows[:1].clone().requires_grad_() for rows in embeddings)
    found = instance_loss(student, teacher, [1], temperature, student_negatives)
    found.sum().backward()
    assert found.tolist() == [0]
    assert not student.grad.any()
    assert not teacher.grad.any()


@every_form
def test_no_exponential_overflows(temperature, student_negatives):
    student, teacher = (rows.float().requires_grad_() for rows in embeddings)
    found = instance_loss(student, -teacher, [6], temperature / 1e4, student_negatives)
    found.sum().backward()
    assert found.max() > 1e3  # exp of it is none
    assert all(value.isfinite().all() for value in (found, student.grad, teacher.grad))


@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype, temperature, student_negatives):
    student, teacher = (rows.to(dtype).requires_grad_() for rows in embeddings)
    found = instance_loss(student, teacher, [6], temperature, student_negatives)
    assert found.dtype == torch.float32
    expected = naive(student, teacher, temperature, student_negatives)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5)
    extreme = (1e3 * student.detach()).requires_grad_()
    values = instance_loss(extreme, teacher, [6], temperature, student_negatives)
    values.sum().backward()
    assert values.max() > 100  # exp of it is neither a half nor a float32
    assert extreme.grad.dtype == teacher.grad.dtype == dtype
    assert all(value.isfinite().all() for value in (values, extreme.grad, teacher.grad))


@every_form
def test_autocast_does_not_change_it(temperature, student_negatives):
    student, teacher = embeddings.float()
    plain = instance_loss(student, teacher, [6], temperature, student_negatives)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(instance_loss(student, teacher, [6], temperature, student_negatives), plain)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature of instances must be positive"):
        instance_loss(*embeddings, [6], temperature)


@pytest.mark.parametrize("shape", [(6, 4), (5, 5), (6, 5, 1)])
def test_shapes_must_agree(shape):
    with pytest.raises(ValueError, match=r"\(6, 5\) and "):
        instance_loss(embeddings[0], torch.randn(shape), [6])


def test_any_number_of_ranks_is_one_process(of_ranks):
    whole = whole_batch()
    expected = [instance(Heads(whole["weights"]), whole, (ROWS,), form) for form in INSTANCE_FORMS]
    for shards in zip(*(found["instance"] for found in of_ranks), strict=True):
        for truth, *parts in zip(expected, *shards, strict=True):
            torch.testing.assert_close(torch.cat([part["values"] for part in parts]), truth["values"])
            for name in ("teacher.weight", "student.weight"):
                assert truth[name].abs().max() > 1e-3
                for part in parts:
                    torch.testing.assert_close(part[name], truth[name], rtol=0, atol=1e-12)
