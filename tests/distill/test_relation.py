from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrun import on_ranks

from dist_rmd.distill.relation import RelationLoss


def numpy_relation(teacher, student, node=0.8, edge=0.35):
    """Loss, node and edge: one corrcoef of teacher and student rows together holds E_t, E_s and M."""
    n = len(teacher)
    pairs = np.corrcoef(teacher, student)
    edge_norm = np.linalg.norm(pairs[:n, :n] - pairs[n:, n:])
    node_norm = np.linalg.norm(pairs[:n, n:] - np.eye(n))
    return [node * node_norm + edge * edge_norm, node_norm, edge_norm]


def naive_loss(teacher, student, node=0.8, edge=0.35):
    """The loss of the whole batch as the paper writes it, left to autograd."""
    centred = [x - x.mean(1, keepdim=True) for x in (teacher, student)]
    z_t, z_s = (x / x.norm(dim=1, keepdim=True) for x in centred)
    return node * (z_t @ z_s.T - torch.eye(len(z_t))).norm() + edge * (z_t @ z_t.T - z_s @ z_s.T).norm()


def features(rows, width, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, rows, width, generator=draw, dtype=torch.float64).to(dtype) + 1
    return teacher, student.requires_grad_()


def gradient(teacher, student, **options):
    (found,) = torch.autograd.grad(RelationLoss(**options)(teacher, student).loss, student)
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(3, 12), st.integers(0, 99), st.floats(0, 2), st.floats(0, 2))
def test_values_are_numpys_and_gradients_are_autograds(rows, width, seed, node, edge):
    teacher, student = features(rows, width, seed)
    relation = RelationLoss(node, edge)(teacher, student)
    expected = numpy_relation(teacher.numpy(), student.detach().numpy(), node, edge)
    np.testing.assert_allclose([float(value.detach()) for value in relation], expected, rtol=1e-10, atol=1e-10)
    assert not relation.node.requires_grad
    assert not relation.edge.requires_grad
    if rows > 1:  # one row: E_t - E_s = 1 - 1, where the naive gradient is 0 / 0
        (naive,) = torch.autograd.grad(naive_loss(teacher, student, node, edge), student)
        torch.testing.assert_close(gradient(teacher, student, node=node, edge=edge), naive, rtol=0, atol=1e-10)


def test_finite_differences():
    teacher, student = features(5, 7)
    assert torch.autograd.gradcheck(lambda s: RelationLoss()(teacher, s).loss, student)


def test_defaults_are_the_papers_weights():
    relation = RelationLoss()(*features(4, 6))
    torch.testing.assert_close(relation.loss.detach(), 0.8 * relation.node + 0.35 * relation.edge)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4 / 3])
def test_constant_rows_correlate_with_nothing(dtype, constant):
    teacher, student = features(6, 50, dtype=dtype)
    student.data[2] = constant
    relation = RelationLoss()(teacher, student)
    z_t = np.corrcoef(teacher.double().numpy())
    others = [0, 1, 3, 4, 5]
    pairs = np.corrcoef(teacher.double().numpy(), student.detach().double().numpy()[others])
    e_s, m = np.zeros((6, 6)), np.zeros((6, 6))
    e_s[np.ix_(others, others)], m[:, others] = pairs[6:, 6:], pairs[:6, 6:]
    assert float(relation.edge) == pytest.approx(np.linalg.norm(z_t - e_s), rel=1e-5)
    assert float(relation.node) == pytest.approx(np.linalg.norm(m - np.eye(6)), rel=1e-5)
    found = gradient(teacher, student)
    assert found.isfinite().all()
    assert found[2].count_nonzero() == 0
    assert found[others].abs().sum(1).min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_student_equal_to_teacher_has_edge_and_edge_gradient_zero(dtype):
    teacher, _ = features(33, 65, dtype=dtype)
    student = teacher.clone().requires_grad_()
    assert float(RelationLoss()(teacher, student).edge) == 0
    assert gradient(teacher, student, node=0).count_nonzero() == 0
    assert gradient(teacher, student).isfinite().all()


def test_perfect_match_has_gradient_zero():
    # Orthogonal rows that sum to zero: E_t = E_s = M = I, where both norms have no derivative.
    teacher = torch.tensor([[1, -1, 0, 0], [0, 0, 1, -1], [1, 1, -1, -1]], dtype=torch.float64)
    student = (3 * teacher + 2).requires_grad_()
    assert RelationLoss()(teacher, student).loss.item() < 1e-14
    assert gradient(teacher, student).count_nonzero() == 0


def test_autocast_does_not_change_it():
    teacher, student = features(16, 32, dtype=torch.float32)
    plain, plain_gradient = RelationLoss()(teacher, student), gradient(teacher, student)
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_gradient = RelationLoss()(teacher, student), gradient(teacher, student)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    assert torch.equal(plain_gradient, cast_gradient)


def test_half_precision_features_are_computed_in_float32():
    teacher, student = features(16, 32, dtype=torch.bfloat16)
    relation = RelationLoss()(teacher, student)
    expected = numpy_relation(teacher.double().numpy(), student.detach().double().numpy())
    assert relation.loss.dtype == torch.float32
    np.testing.assert_allclose([float(value.detach()) for value in relation], expected, rtol=1e-5)
    assert gradient(teacher, student).dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_products_are_full_float32_and_the_setting_is_restored(monkeypatch, precision):
    before = torch.get_float32_matmul_precision()
    seen = []
    sub = torch.Tensor.sub_
    monkeypatch.setattr(
        torch.Tensor, "sub_", lambda *a: seen.append(torch.backends.cuda.matmul.fp32_precision) or sub(*a)
    )
    try:
        torch.set_float32_matmul_precision(precision)
        outside = torch.backends.cuda.matmul.fp32_precision
        RelationLoss()(*features(3, 4))
        assert seen == ["ieee"]
        assert torch.backends.cuda.matmul.fp32_precision == outside
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_gradient_scales_with_the_incoming_one_and_spares_the_teacher():
    teacher, student = features(5, 6)
    teacher.requires_grad_()
    (1024 * RelationLoss()(teacher, student).loss).backward()
    torch.testing.assert_close(student.grad, 1024 * gradient(teacher, student))
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gramm"}, "'gramm'.*gather"),
        ({"node": -1}, "-1"),
        ({"edge": float("nan")}, "nan"),
        ({"eps": 0}, "eps > 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RelationLoss(**options)


@pytest.mark.parametrize("shape", [(4, 5), (3, 6), (4, 6, 1)])
def test_shapes_must_agree(shape):
    with pytest.raises(ValueError, match=r"\(4, 6\) and "):
        RelationLoss()(torch.randn(4, 6), torch.randn(shape))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_is_one_process(ranks, tmp_path):
    draw = np.random.default_rng(0)
    inputs, teacher, weight = draw.normal(size=(7, 5)), draw.normal(size=(7, 6)) + 1, draw.normal(size=(6, 5))
    np.savez(tmp_path / "whole.npz", inputs=inputs, teacher=teacher, weight=weight)
    on_ranks(ranks, Path(__file__).with_name("relation_ranks.py"), tmp_path)

    parameter = torch.tensor(weight, requires_grad=True)
    naive_loss(torch.tensor(teacher), torch.tensor(inputs) @ parameter.T).backward()
    values = torch.tensor(numpy_relation(teacher, inputs @ weight.T))
    by_rank = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(ranks)]
    assert len(by_rank[0]) == 4 * ranks  # shards x dtypes x sizes known or not
    for cases in zip(*by_rank, strict=True):
        (_, dtype, _), first = cases[0]
        close = {"rtol": 0, "atol": 1e-9 if dtype == torch.float64 else 1e-5}
        torch.testing.assert_close(first["values"].double(), values, **close)
        torch.testing.assert_close(first["gradient"].double(), parameter.grad, **close)
        assert all(torch.equal(first["values"], other["values"]) for _, other in cases)
