import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.forked import on_ranks
from support.ranks.relation import FORMS, WIDTHS, cases
from torch.utils._python_dispatch import TorchDispatchMode

from dist_rmd.distill.relation import RelationLoss, auto

both_methods = pytest.mark.parametrize("method", ["gather", "gram"])
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form.values()))


def counts(i, j, node_pairs, labels):
    """The pair's entry of M - I belongs to the node term."""
    return i == j or node_pairs == "all" or (node_pairs == "other_label" and labels[i] != labels[j])


def numpy_relation(teacher, student, node=0.8, edge=0.35, norm="fro", node_pairs="all", labels=None):
    """Loss, node and edge: one corrcoef of teacher and student rows together holds E_t, E_s and M."""
    n = len(teacher)
    pairs = np.corrcoef(teacher, student)
    misses = [pairs[i, n + j] - (i == j) for i in range(n) for j in range(n) if counts(i, j, node_pairs, labels)]
    norms = np.array([np.linalg.norm(misses), np.linalg.norm(pairs[:n, :n] - pairs[n:, n:])])
    node_norm, edge_norm = norms / (n if norm == "rms" else 1)
    return [node * node_norm + edge * edge_norm, node_norm, edge_norm]


def frobenius(matrix):
    return matrix.square().sum().sqrt()  # .norm() of float32 loses up to two more digits on CPUs


def naive_loss(teacher, student, node=0.8, edge=0.35, norm="fro", node_pairs="all", labels=None):
    """The loss of the whole batch as the paper writes it, left to autograd."""
    n = len(teacher)
    centred = [x - x.mean(1, keepdim=True) for x in (teacher, student)]
    z_t, z_s = (x / x.norm(dim=1, keepdim=True) for x in centred)
    keep = torch.tensor([[counts(i, j, node_pairs, labels) for j in range(n)] for i in range(n)])
    nodes = torch.where(keep, z_t @ z_s.T - torch.eye(n), 0)
    whole = node * frobenius(nodes) + edge * frobenius(z_t @ z_t.T - z_s @ z_s.T)
    return whole / n if norm == "rms" else whole


def features(rows, width, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, rows, width, generator=draw, dtype=torch.float64).to(dtype) + 1
    return teacher, student.requires_grad_()


def classes(rows, seed=0):
    return torch.randint(3, (rows,), generator=torch.Generator().manual_seed(seed))


def gradient(teacher, student, labels=None, **options):
    (found,) = torch.autograd.grad(RelationLoss(**options)(teacher, student, labels=labels).loss, student)
    return found


def value_and_gradient(loss, teacher, student):
    student = student.detach().clone().requires_grad_()
    value = loss(teacher, student)
    return value.detach(), torch.autograd.grad(value, student)[0]


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(FORMS),
    st.integers(1, 25),
    st.integers(3, 12),
    st.integers(0, 99),
    st.floats(0, 2),
    st.floats(0, 2),
)
def test_values_are_numpys_and_gradients_are_autograds(form, rows, width, seed, node, edge):
    (teacher, student), labels = features(rows, width, seed), classes(rows, seed)
    what = {"norm": form["norm"], "node_pairs": form["node_pairs"], "labels": labels}
    relation = RelationLoss(node, edge, **form)(teacher, student, labels=labels)
    expected = numpy_relation(teacher.numpy(), student.detach().numpy(), node, edge, **what)
    # One row: E_t - E_s = 1 - 1, where gram takes the root of a rounding error and the naive gradient is 0 / 0.
    atol = 1e-10 if rows > 1 or form["method"] == "gather" else 1e-6
    np.testing.assert_allclose([float(value.detach()) for value in relation], expected, rtol=1e-10, atol=atol)
    assert not relation.node.requires_grad
    assert not relation.edge.requires_grad
    if rows > 1:
        (naive,) = torch.autograd.grad(naive_loss(teacher, student, node, edge, **what), student)
        found = gradient(teacher, student, labels, node=node, edge=edge, **form)
        torch.testing.assert_close(found, naive, rtol=0, atol=1e-10)


@every_form
@pytest.mark.parametrize("rows", [5, 20])
def test_finite_differences(form, rows):
    (teacher, student), labels = features(rows, 7), classes(rows)
    assert torch.autograd.gradcheck(lambda s: RelationLoss(**form)(teacher, s, labels=labels).loss, student)


@both_methods
def test_rms_is_the_norm_by_the_batch_size(method):
    teacher, student = features(16, 6)  # a power of two, so that the division rounds nothing
    fro, rms = (RelationLoss(method=method, norm=norm)(teacher, student) for norm in ("fro", "rms"))
    assert all(torch.equal(a / 16, b) for a, b in zip(fro, rms, strict=True))
    slopes = [gradient(teacher, student, method=method, norm=norm) for norm in ("fro", "rms")]
    torch.testing.assert_close(slopes[0] / 16, slopes[1], rtol=1e-14, atol=0)


@both_methods
def test_a_batch_of_every_sample_twice_has_twice_the_edge_and_the_same_rms(method):
    teacher, student = (x.detach() for x in features(20, 6))
    for norm, factor in (("fro", 2), ("rms", 1)):
        loss = RelationLoss(method=method, norm=norm)
        once, twice = loss(teacher, student).edge, loss(*(torch.cat([x, x]) for x in (teacher, student))).edge
        torch.testing.assert_close(twice, factor * once)


@pytest.mark.parametrize(("labels", "same_as"), [(torch.full((20,), 7), "self"), (torch.arange(20), "all")])
@pytest.mark.parametrize("norm", ["fro", "rms"])
def test_with_one_label_only_the_diagonal_counts_and_without_two_alike_all_pairs_do(labels, same_as, norm):
    teacher, student = features(20, 7)
    masked, plain = (RelationLoss(norm=norm, method="gather", node_pairs=pairs) for pairs in ("other_label", same_as))
    found, expected = masked(teacher, student, labels=labels), plain(teacher, student)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    slopes = [torch.autograd.grad(relation.loss, student)[0] for relation in (found, expected)]
    assert torch.equal(*slopes)


def test_the_node_term_draws_samples_of_one_label_apart_unless_they_are_left_out():
    """The student is the teacher, whose two classes are two directions: what is left of node is within classes."""
    teacher, _ = features(2, 30)
    teacher = teacher.repeat(4, 1)
    labels = torch.arange(8) % 2
    found = {
        pairs: RelationLoss(method="gather", node_pairs=pairs)(teacher, teacher, labels=labels)
        for pairs in ("all", "other_label", "self")
    }
    assert all(relation.edge == 0 for relation in found.values())
    across = np.corrcoef(teacher[:2].numpy())[0, 1]
    squares = {pairs: relation.node.item() ** 2 for pairs, relation in found.items()}
    assert squares["all"] == pytest.approx(24 + 32 * across**2)  # 2 classes x 4 x 3 pairs of one, 32 of two labels
    assert squares["other_label"] == pytest.approx(32 * across**2)
    assert squares["self"] == pytest.approx(0, abs=1e-20)


def close_features(closeness, rotated, seed, rows=400, width=100):
    """Float32 features with a decaying spectrum; the student is the teacher + closeness * noise."""
    draw = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, width + 1, dtype=torch.float64) ** -0.5
    teacher, noise = torch.randn(2, rows, width, generator=draw, dtype=torch.float64) * spectrum
    student = teacher + closeness * noise
    if rotated:  # features change places: Z_s is far from Z_t, and E_s is as near to E_t as before
        student = student[:, torch.randperm(width, generator=draw)]
    return teacher.float(), student.float()


def naive_edge(teacher, student):
    return naive_loss(teacher, student, 0, 1)


@functools.cache
def exact_edges(closeness, rotated):
    """Nine pairs of close features, each with edge and its gradient by B x B matrices in float64."""
    pairs = [close_features(closeness, rotated, seed) for seed in range(9)]
    return [(pair, value_and_gradient(naive_edge, *(rows.double() for rows in pair))) for pair in pairs]


def edge_errors(loss, closeness, rotated):
    """Relative errors of edge and of its gradient: medians over the pairs."""
    errors = [
        [float((found.double() - true).norm() / true.norm()) for found, true in zip(ours, exact, strict=True)]
        for ours, exact in ((value_and_gradient(loss, *pair), exact) for pair, exact in exact_edges(closeness, rotated))
    ]
    return np.median(errors, axis=0)


@functools.cache
def naive_errors(closeness, rotated):
    return edge_errors(naive_edge, closeness, rotated)


@both_methods
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("closeness", [1e-2, 1e-3, 1e-4])
def test_edge_is_as_exact_near_convergence_as_float32_matrices(method, closeness, rotated):
    loss = RelationLoss(node=0, edge=1, method=method)
    value, slope = edge_errors(lambda t, s: loss(t, s).loss, closeness, rotated)
    naive_value, naive_slope = naive_errors(closeness, rotated)
    # What is left is Z, which all of them round to float32.  Its effect on the value has either sign; hence the factor.
    assert value <= 3 * naive_value
    assert slope <= (1 if method == "gram" else 1.25) * naive_slope


@both_methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_with_the_teachers_relations_gets_a_finite_gradient(method, dtype):
    # Edge is nothing but rounding here: its square may be negative, and its gradient must stay what it can be at most.
    for seed in range(20):
        teacher, _ = features(40, 16, seed, dtype)
        student = teacher.roll(1, dims=1).clone().requires_grad_()
        relation = RelationLoss(node=0, edge=1, method=method)(teacher, student)
        assert 0 <= relation.edge <= (2e-5 if dtype == torch.float32 else 1e-6)
        (found,) = torch.autograd.grad(relation.loss, student)
        # ||2 (E_s - E_t) Z_s / edge||_F <= 2 ||Z_s||_2 <= 2 sqrt(B), over the length of the centred rows
        shortest = (student - student.mean(1, keepdim=True)).detach().norm(dim=1).min()
        assert found.norm() * shortest <= 2 * 40**0.5


@pytest.mark.parametrize(("rows", "width", "method"), [(23, 8, "gather"), (24, 8, "gram"), (300, 100, "gram")])
def test_auto_takes_gram_from_three_times_the_width_on(rows, width, method):
    assert auto(rows, width) == method
    teacher, student = features(rows, width, dtype=torch.float32)
    own, other = (gradient(teacher, student, method=m) for m in (method, {"gather": "gram"}.get(method, "gather")))
    assert not torch.equal(own, other)  # the forms can be told apart by their rounding
    assert torch.equal(gradient(teacher, student), own)  # auto is the default


@pytest.mark.parametrize("node_pairs", ["other_label", "self"])
def test_auto_takes_gather_where_pairs_are_left_out(node_pairs):
    assert auto(300, 100, node_pairs) == "gather"
    (teacher, student), labels = features(300, 10, dtype=torch.float32), classes(300)
    taken = [gradient(teacher, student, labels, method=m, node_pairs=node_pairs) for m in ("auto", "gather")]
    assert torch.equal(*taken)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(("method", "elements"), [("gather", 600 * 600), ("gram", 600 * 20)])
def test_gram_makes_no_matrix_of_all_pairs(method, elements):
    teacher, student = features(600, 20)
    with Largest() as largest:
        gradient(teacher, student, method=method)
    assert largest.elements == elements


def test_defaults_are_the_papers_weights():
    relation = RelationLoss()(*features(4, 6))
    torch.testing.assert_close(relation.loss.detach(), 0.8 * relation.node + 0.35 * relation.edge)


@both_methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4 / 3])
def test_constant_rows_correlate_with_nothing(method, dtype, constant):
    teacher, student = features(6, 50, dtype=dtype)
    student.data[2] = constant
    relation = RelationLoss(method=method)(teacher, student)
    z_t = np.corrcoef(teacher.double().numpy())
    others = [0, 1, 3, 4, 5]
    pairs = np.corrcoef(teacher.double().numpy(), student.detach().double().numpy()[others])
    e_s, m = np.zeros((6, 6)), np.zeros((6, 6))
    e_s[np.ix_(others, others)], m[:, others] = pairs[6:, 6:], pairs[:6, 6:]
    assert float(relation.edge) == pytest.approx(np.linalg.norm(z_t - e_s), rel=1e-5)
    assert float(relation.node) == pytest.approx(np.linalg.norm(m - np.eye(6)), rel=1e-5)
    found = gradient(teacher, student, method=method)
    assert found.isfinite().all()
    assert found[2].count_nonzero() == 0
    assert found[others].abs().sum(1).min() > 0


@both_methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [33, 200])
def test_student_equal_to_teacher_has_edge_and_edge_gradient_zero(method, dtype, rows):
    teacher, _ = features(rows, 65, dtype=dtype)
    student = teacher.clone().requires_grad_()
    assert float(RelationLoss(method=method)(teacher, student).edge) == 0
    assert gradient(teacher, student, node=0, method=method).count_nonzero() == 0
    assert gradient(teacher, student, method=method).isfinite().all()


@every_form
def test_perfect_match_has_gradient_zero(form):
    # Orthogonal rows that sum to zero: E_t = E_s = M = I, where both norms have no derivative.
    teacher = torch.tensor([[1, -1, 0, 0], [0, 0, 1, -1], [1, 1, -1, -1]], dtype=torch.float64)
    student = (3 * teacher + 2).requires_grad_()
    assert RelationLoss(**form)(teacher, student, labels=classes(3)).loss.item() < 1e-14
    assert gradient(teacher, student, classes(3), **form).count_nonzero() == 0


@every_form
def test_autocast_does_not_change_it(form):
    (teacher, student), labels = features(16, 32, dtype=torch.float32), classes(16)
    loss = RelationLoss(**form)
    plain, plain_gradient = loss(teacher, student, labels=labels), gradient(teacher, student, labels, **form)
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_gradient = loss(teacher, student, labels=labels), gradient(teacher, student, labels, **form)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
    assert torch.equal(plain_gradient, cast_gradient)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
        ),
    ],
)
@pytest.mark.parametrize(("rows", "width"), [(96, 32), (24, 64)])
@every_form
def test_a_device_gives_the_values_and_gradients_of_float64(form, rows, width, device):
    """In float32, within autocast, with TF32 allowed outside."""
    (teacher, student), labels = features(rows, width), classes(rows)
    what = {"norm": form["norm"], "node_pairs": form["node_pairs"], "labels": labels}
    expected = numpy_relation(teacher.numpy(), student.detach().numpy(), **what)
    slope = gradient(teacher, student, **form, labels=labels)
    there = student.detach().to(device, torch.float32).requires_grad_()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast(device, torch.bfloat16):
            found = RelationLoss(**form)(teacher.to(device, torch.float32), there, labels=labels.to(device))
            (slope_there,) = torch.autograd.grad(found.loss, there)
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose([float(value.detach()) for value in found], expected, rtol=1e-5)
    torch.testing.assert_close(slope_there.cpu().double(), slope, rtol=1e-4, atol=1e-6)


@both_methods
def test_half_precision_features_are_computed_in_float32(method):
    teacher, student = features(16, 32, dtype=torch.bfloat16)
    relation = RelationLoss(method=method)(teacher, student)
    expected = numpy_relation(teacher.double().numpy(), student.detach().double().numpy())
    assert relation.loss.dtype == torch.float32
    np.testing.assert_allclose([float(value.detach()) for value in relation], expected, rtol=1e-5)
    assert gradient(teacher, student, method=method).dtype == torch.bfloat16


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


@both_methods
def test_gradient_scales_with_the_incoming_one_and_spares_the_teacher(method):
    teacher, student = features(5, 6)
    teacher.requires_grad_()
    (1024 * RelationLoss(method=method)(teacher, student).loss).backward()
    torch.testing.assert_close(student.grad, 1024 * gradient(teacher, student, method=method))
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gramm"}, "'gramm'.*auto, gather, gram"),
        ({"node": -1}, "-1"),
        ({"edge": float("nan")}, "nan"),
        ({"eps": 0}, "eps > 0"),
        ({"norm": "spectral"}, "norm 'spectral'.*fro, rms"),
        ({"node_pairs": "same"}, "node_pairs 'same'.*all, other_label, self"),
        ({"method": "gram", "node_pairs": "self"}, "node_pairs=self needs gather or auto"),
        ({"method": "gram", "node_pairs": "other_label"}, "node_pairs=other_label needs gather or auto"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RelationLoss(**options)


@pytest.mark.parametrize("shape", [(4, 5), (3, 6), (4, 6, 1)])
def test_shapes_must_agree(shape):
    with pytest.raises(ValueError, match=r"\(4, 6\) and "):
        RelationLoss()(torch.randn(4, 6), torch.randn(shape))


@pytest.mark.parametrize("method", ["gather", "gram"])
@pytest.mark.parametrize("widths", [(7, 4), (3, 9)])
def test_edge_matching_takes_networks_of_different_widths(method, widths):
    teacher, student = features(8, widths[0])[0], features(8, widths[1])[1].requires_grad_()
    (z_t, z_s) = (F.normalize(x - x.mean(1, keepdim=True)) for x in (teacher, student))
    naive = 0.35 * torch.linalg.matrix_norm(z_t @ z_t.T - z_s @ z_s.T)
    found = RelationLoss(node=0, edge=0.35, method=method)(teacher, student)
    torch.testing.assert_close(found.loss, naive, rtol=0, atol=1e-10)
    assert found.node == 0
    ours, theirs = (torch.autograd.grad(value, student, retain_graph=True)[0] for value in (found.loss, naive))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("labels", [None, torch.arange(5), torch.zeros(6, 1)])
def test_other_label_needs_a_label_for_each_row(labels):
    with pytest.raises(ValueError, match=r"labels of all 6 rows, got (None|\(5,\)|\(6, 1\))"):
        RelationLoss(node_pairs="other_label")(*features(6, 8), labels=labels)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_is_one_process(ranks, tmp_path):
    draw = np.random.default_rng(0)
    inputs, labels = draw.normal(size=(7, 5)), np.array([0, 1, 0, 2, 1, 0, 0])
    whole = {width: (draw.normal(size=(7, width)) + 1, draw.normal(size=(width, 5))) for width in WIDTHS}
    teachers = {f"teacher{width}": teacher for width, (teacher, _) in whole.items()}
    weights = {f"weight{width}": weight for width, (_, weight) in whole.items()}
    np.savez(tmp_path / "whole.npz", inputs=inputs, labels=labels, **teachers, **weights)
    on_ranks(ranks, "relation", tmp_path)
    by_rank = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(ranks)]

    def expected(form, width):
        """The whole batch's values, the gradient of the network's weight, that of the student's features."""
        what = {"norm": form["norm"], "node_pairs": form["node_pairs"], "labels": labels}
        teacher, weight = whole[width]
        parameter = torch.tensor(weight, requires_grad=True)
        student = torch.tensor(inputs) @ parameter.T
        student.retain_grad()
        naive_loss(torch.tensor(teacher), student, **what).backward()
        return torch.tensor(numpy_relation(teacher, inputs @ weight.T, **what)), parameter.grad, student.grad

    exact = {(number, width): expected(form, width) for number, form in enumerate(FORMS) for width in whole}
    assert [case for case, _ in by_rank[0]["steps"]] == cases(ranks)
    for (case, first), *others in zip(*(found["steps"] for found in by_rank), strict=True):
        form, width, _, dtype, _ = case
        values, slope, _ = exact[FORMS.index(form), width]
        close = {"rtol": 0, "atol": 1e-9 if dtype == torch.float64 else 1e-5}
        torch.testing.assert_close(first["values"].double(), values, **close)
        torch.testing.assert_close(first["gradient"].double(), slope, **close)
        assert all(torch.equal(first["values"], other["values"]) for _, other in others)
    for number in range(len(FORMS)):
        parts = torch.cat([found["alone"][number] for found in by_rank])
        # DDP's mean was still to come.
        torch.testing.assert_close(parts / ranks, exact[number, 6][2], rtol=0, atol=1e-9)


def test_it_is_a_module_without_parameters_that_says_its_options():
    relation = RelationLoss(node=0.5, norm="rms")
    assert not relation.state_dict()
    assert repr(relation) == (
        "RelationLoss(node=0.5, edge=0.35, method='auto', eps=1e-08, norm='rms', node_pairs='all')"
    )
    seen = []
    relation.register_forward_hook(lambda module, given, found: seen.append(found.node))
    node = relation(*features(3, 4)).node
    assert seen == [node]
