from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.ranks.terms import ROWS, Heads, prototypical, whole_batch

from dist_rmd.distill.prototypes import class_sums, prototypes, prototypical_loss

draws = torch.Generator().manual_seed(0)
z = F.normalize(torch.randn(9, 5, generator=draws, dtype=torch.float64), dim=1)
labels = torch.tensor([0, 2, 0, 3, 2, 0, 0, 3, 3])
"""of four classes, of which class 1 has no image"""
means = prototypes(*class_sums(z, labels, 4))


def naive_loss(z, labels, prototypes, temperature):
    """The formula, row by row; classes with a zero row do not exist."""
    z, prototypes = z.detach().double().numpy(), prototypes.double().numpy()
    values = []
    for row, label in zip(z, labels.tolist(), strict=True):
        exps = {k: exp(row @ p / temperature) for k, p in enumerate(prototypes) if p.any()}
        values.append(-log(exps[label] / sum(exps.values())) if label in exps else 0.0)
    return np.array(values)


def test_sums_are_those_of_a_loop():
    sums, counts = np.zeros((4, 5)), np.zeros(4)
    for row, label in zip(z.numpy(), labels.tolist(), strict=True):
        sums[label] += row
        counts[label] += 1
    found_sums, found_counts = class_sums(z, labels, 4)
    np.testing.assert_allclose(found_sums.numpy(), sums, rtol=1e-14)
    np.testing.assert_array_equal(found_counts.numpy(), counts)
    unit = [total / np.linalg.norm(total) if total.any() else total for total in sums]
    np.testing.assert_allclose(means.numpy(), unit, rtol=1e-13)


def test_sums_of_several_calls_add_up():
    parts = [class_sums(z[rows], labels[rows], 4) for rows in (slice(0, 4), slice(4, 4), slice(4, 9))]
    for found, whole in zip(map(sum, zip(*parts, strict=True)), class_sums(z, labels, 4), strict=True):
        torch.testing.assert_close(found, whole, rtol=1e-14, atol=0)


def test_float32_rows_are_summed_in_float64_without_gradient():
    rows = torch.full((3000, 1), 0.1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        sums, counts = class_sums(rows, torch.zeros(3000, dtype=torch.int64), 1)
    assert sums.dtype == counts.dtype == torch.float64
    assert sums.item() == pytest.approx(3000 * float(np.float32(0.1)), rel=1e-13)
    assert not sums.requires_grad


def test_a_class_without_images_or_direction_has_a_zero_row():
    rows = torch.cat([z[:3], z[3:4], -z[3:4]])
    found = prototypes(*class_sums(rows, torch.tensor([0, 0, 0, 1, 1]), 3))
    assert found[1:].count_nonzero() == 0
    assert torch.linalg.vector_norm(found[0]).item() == pytest.approx(1, abs=1e-14)


def test_prototypes_know_no_scale_of_counts():
    sums, counts = class_sums(z, labels, 4)
    torch.testing.assert_close(prototypes(1e6 * sums, 1e6 * counts), means, rtol=1e-14, atol=0)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0])
def test_loss_is_the_formula(temperature):
    targets = torch.tensor([3, 2, 0, 3, 1, 0, 1, 2, 3])  # some of the class that does not exist
    found = prototypical_loss(z, targets, means, temperature)
    np.testing.assert_allclose(found.numpy(), naive_loss(z, targets, means, temperature), rtol=1e-12, atol=1e-14)
    assert (found == 0).tolist() == (targets == 1).tolist()


def test_default_temperature_is_the_papers():
    assert torch.equal(prototypical_loss(z, labels, means), prototypical_loss(z, labels, means, 0.3))


@pytest.mark.parametrize("absent", [[], [1], [0, 1, 3]])
def test_finite_differences(absent):
    known = F.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=1)
    known[absent] = 0
    assert torch.autograd.gradcheck(lambda x: prototypical_loss(x, labels, known), z.clone().requires_grad_())


@pytest.mark.parametrize("classes", [2, 10])
def test_limits_of_orthogonal_prototypes(classes):
    corners, own = torch.eye(classes, dtype=torch.float64), torch.arange(classes)
    found = prototypical_loss(corners, own, corners)
    torch.testing.assert_close(found, torch.full_like(found, log(1 + (classes - 1) * exp(-1 / 0.3))))
    hot = prototypical_loss(corners, own, corners, 1e12)
    torch.testing.assert_close(hot, torch.full_like(found, log(classes)))
    alone = prototypical_loss(corners, torch.zeros_like(own), corners * (own == 0)[:, None])
    assert not alone.any()  # nothing to be told from


def test_rows_of_a_class_without_prototype_ask_for_nothing():
    rows = z.clone().requires_grad_()
    prototypical_loss(rows, torch.where(labels == 0, 1, labels), means).sum().backward()
    assert torch.equal(rows.grad.any(dim=1), labels != 0)
    rows.grad = None
    values = prototypical_loss(rows, labels, torch.zeros_like(means))
    values.sum().backward()
    assert not values.any()
    assert not rows.grad.any()  # nor NaN, which is true


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    rows = z.to(dtype).requires_grad_()
    found = prototypical_loss(rows, labels, means)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), naive_loss(rows, labels, means, 0.3), rtol=1e-5)
    extreme = (6e4 * z).to(dtype).requires_grad_()
    values = prototypical_loss(extreme, torch.where(labels == 0, 1, labels), means)
    values.sum().backward()
    assert values.isfinite().all()
    assert extreme.grad.isfinite().all()
    assert extreme.grad.dtype == dtype


def test_autocast_does_not_change_it():
    plain = prototypical_loss(z.float(), labels, means)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prototypical_loss(z.float(), labels, means), plain)


@pytest.mark.parametrize("temperature", [0, -0.3, float("nan")])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature of prototypes must be positive"):
        prototypical_loss(z, labels, means, temperature)


def test_any_number_of_ranks_is_one_process(of_ranks):
    whole = whole_batch()
    truth = prototypical(Heads(whole["weights"]), whole, (ROWS,))
    assert truth["counts"].tolist() == [4, 0, 2, 1]
    for parts in zip(*(found["prototypical"] for found in of_ranks), strict=True):
        torch.testing.assert_close(torch.cat([part["values"] for part in parts]), truth["values"])
        for name in ("sums", "counts", "teacher.weight", "student.weight"):
            assert truth[name].abs().max() > 1e-3
            for part in parts:
                assert torch.equal(part[name], parts[0][name])
                torch.testing.assert_close(part[name], truth[name], rtol=0, atol=1e-12)
