import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from dist_rmd.data.labels.view import TYPES
from dist_rmd.distill.division import (
    CLEAN,
    CLOSED,
    OPEN,
    SETS,
    Mixture,
    divide,
    evidential_loss,
    quality,
    refined_labels,
    scaled,
    subjective_logic_loss,
    valleys,
)
from dist_rmd.errors import DataError


def naive_loss(logits, label, evidence):
    """Eq. 2 as it is printed, of one image."""
    alpha = [evidence(x) + 1 for x in logits]
    s = sum(alpha)
    return sum(
        ((k == label) - a / s) ** 2 + a * (s - a) / (s**2 * (s + 1))  # one class
        for k, a in enumerate(alpha)
    )


EVIDENCE = {
    "relu": lambda x: max(x, 0.0),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "exp": lambda x: np.exp(min(max(x, -10.0), 10.0)),
}


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_losses_are_the_papers_equation_2(evidence, scale):
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(0, 8, (40, 7)), draw.integers(7, size=40)
    found = subjective_logic_loss(torch.tensor(logits), torch.tensor(labels), evidence, scale)
    expected = [naive_loss(scale * row, label, EVIDENCE[evidence]) for row, label in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.dtype == torch.float64
    halves = subjective_logic_loss(torch.tensor(logits).half(), torch.tensor(labels), evidence, scale)
    np.testing.assert_allclose(halves, expected, atol=0.05)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_evidence_for_other_labels_costs_its_divergence_from_none(share):
    draw = torch.Generator().manual_seed(0)
    logits = (8 * torch.randn(20, 5, generator=draw, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(5, (20,), generator=draw)
    found = evidential_loss(logits, labels, share)
    expected = []
    for row, label in zip(logits.detach(), labels, strict=True):
        alpha = row.clamp_min(0) + 1
        alpha[label] = 1
        divergence = torch.distributions.kl_divergence(
            torch.distributions.Dirichlet(alpha), torch.distributions.Dirichlet(torch.ones(5, dtype=torch.float64))
        )
        expected.append(naive_loss(row.tolist(), label.item(), EVIDENCE["relu"]) + share * divergence.item())
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-10)
    found.sum().backward()
    assert logits.grad.isfinite().all()


def three_groups(seed=0):
    """Losses around 0.1, 0.45 and 0.8, so that the fixed thresholds 0.3 and 0.9 would find no closed set."""
    draw = np.random.default_rng(seed)
    return np.concatenate([draw.normal(at, 0.03, 400) for at in (0.1, 0.45, 0.8)])


def test_valleys_lie_between_the_groups_of_losses():
    losses = three_groups()
    found = divide(losses, scaling="none", components=3, thresholds="valleys")
    low, high = found.thresholds
    assert 0.18 < low < 0.37
    assert 0.53 < high < 0.72
    np.testing.assert_array_equal(found.set, np.repeat([CLEAN, OPEN, CLOSED], 400))
    assert "closed" in divide(losses, scaling="none", components=3).empty
    fixed = divide(losses, scaling="none", components=3, clean=low, closed=high)
    np.testing.assert_array_equal(fixed.set, found.set)


def test_losses_without_two_valleys_are_refused():
    losses = np.random.default_rng(0).normal(0.5, 0.1, 500)
    with pytest.raises(DataError, match=r"has 0 valleys, and three sets need two: use division\.thresholds=fixed"):
        divide(losses, scaling="none", components=1, thresholds="valleys")
    with pytest.raises(ValueError, match="unknown thresholds 'ridges'"):
        divide(losses, thresholds="ridges")


def test_the_deepest_of_many_valleys_are_taken():
    """Of five narrow groups two are close to their neighbours, and share a high saddle with them."""
    means = np.array([0.1, 0.2, 0.5, 0.8, 0.9])
    low, high = valleys(Mixture(np.full(5, 0.2), means, np.full(5, 0.04**2), np.zeros(5, int)))
    assert 0.3 < low < 0.4
    assert 0.6 < high < 0.7


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("size", [0.0, 1.0, 1e4, 3e38])
def test_losses_stay_in_their_range(evidence, size):
    logits = size * torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    losses = subjective_logic_loss(logits, torch.tensor([0, 1, 2]), evidence)
    assert ((losses > 0) & (losses < 2)).all()


@pytest.mark.parametrize(
    ("classes", "top", "right", "wrong", "nothing"),
    [
        (10, (8, 12, 20), (0.32, 0.21, 0.12), (1.20, 1.30, 1.45), 0.98),
        (100, (8, 12, 20, 30), (0.86, 0.80, 0.70, 0.59), (1.01, 1.01, 1.03, 1.05), 1.00),
        (200, (8, 12, 20, 30), (0.92, 0.89, 0.83, 0.76), (1.00, 1.00, 1.01, 1.02), 1.00),
    ],
)
def test_losses_by_the_number_of_classes(classes, top, right, wrong, nothing):
    """One logit is `top`, no other has evidence.  With 100 classes, no loss comes near the threshold of 0.3."""
    for m, if_right, if_wrong in zip(top, right, wrong, strict=True):
        logits = torch.full((2, classes), -1.0)
        logits[:, 3] = m
        found = subjective_logic_loss(logits, torch.tensor([3, 4]))
        np.testing.assert_allclose(found, [if_right, if_wrong], atol=0.005)
    assert subjective_logic_loss(torch.zeros(1, classes), torch.tensor([0])).item() == pytest.approx(nothing, abs=0.005)


def test_more_evidence_parts_the_sets_of_many_classes():
    """Sure of the label, sure of another, sure of none, with 100 classes: what exp does that ReLU does not."""
    logits = torch.full((3, 100), -2.0)
    logits[:2, 0], logits[2, :10] = 12, 3
    labels = torch.tensor([0, 1, 0])
    clean, closed, opened = subjective_logic_loss(logits, labels)
    assert closed - opened < 0.1
    assert clean > 0.75
    for options in ({"evidence": "exp"}, {"scale": 100.0}):
        clean, closed, opened = subjective_logic_loss(logits, labels, **options)
        assert clean < 0.1
        assert closed - opened > 0.5


@pytest.mark.parametrize(("options", "words"), [({"evidence": "elu"}, "evidence 'elu'"), ({"scale": 0}, "positive")])
def test_wrong_options_of_the_loss_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        subjective_logic_loss(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), **options)


def test_refined_labels_are_the_teachers():
    assert refined_labels(torch.tensor([[0.0, 2, 1], [-1, -3, -2]])).tolist() == [1, 0]


# Scaling


def test_scalings():
    draw = np.random.default_rng(1)
    losses, labels = draw.uniform(0.2, 1.7, 5000), draw.integers(3, size=5000)
    losses[:2] = 0, 40  # one of each that is far out
    np.testing.assert_array_equal(scaled(losses, "none"), losses)
    np.testing.assert_allclose(scaled(losses), losses / 40)
    robust = scaled(losses, "percentile")
    np.testing.assert_allclose(robust, np.clip((losses - 0.2) / 1.5, 0, 1), atol=0.005)
    assert (robust[:2] == [0, 1]).all()
    per_class = scaled(losses, "per_class", labels)
    for label in range(3):
        own = losses[labels == label]
        np.testing.assert_allclose(per_class[labels == label], (own - own.min()) / (own.max() - own.min()))


def test_a_class_of_equal_losses_is_scaled_as_the_set():
    found = scaled([0.0, 0.5, 0.5, 1.0, 2.0], "per_class", [0, 1, 1, 0, 2])
    np.testing.assert_array_equal(found, [0, 0.25, 0.25, 1, 1])


@pytest.mark.parametrize("how", ["minmax", "percentile", "per_class"])
def test_equal_losses_cannot_be_scaled(how):
    with pytest.raises(DataError, match=r"^the losses of 50 images cannot be scaled.* 0\.98, so the teacher") as caught:
        divide(np.full(50, 0.98), np.zeros(50), scaling=how)
    assert "\n" not in str(caught.value)


# The mixture


def planted(images=4000, seed=0):
    """Losses of three groups well apart, shuffled, and their sets."""
    draw = np.random.default_rng(seed)
    part = images // 4
    groups = [
        np.abs(draw.normal(0.08, 0.05, images - 2 * part)),
        draw.normal(1.42, 0.02, part),
        draw.normal(0.85, 0.12, part),
    ]
    order = draw.permutation(images)
    return np.concatenate(groups)[order], np.repeat([CLEAN, CLOSED, OPEN], [len(group) for group in groups])[order]


def naive_parts(values, mixture):
    """p_c, p_cn and p_on as the paper prints them: sums of w_j g_j, N x 3."""
    parts = np.zeros((len(values), 3))
    for i, value in enumerate(values):
        for w, mean, variance, which in zip(
            mixture.weights, mixture.means, mixture.variances, mixture.set, strict=True
        ):
            g = np.exp(-((value - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
            parts[i, which] += w * g
    return parts


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("scaling", ["minmax", "percentile", "none"])
def test_planted_groups_are_recovered(seed, scaling):
    losses, true = planted(seed=seed)
    thresholds = {"clean": 0.4, "closed": 1.3} if scaling == "none" else {}
    found = divide(losses, scaling=scaling, **thresholds)
    measured = quality(found.set, true)
    assert min(*measured.precision, *measured.recall) > 0.97
    assert found.empty == ()
    assert (found.undecided, found.underflows) == (0, 0)
    assert sum(found.counts.values()) == len(losses)
    assert len(found.mixture.means) == 20
    assert found.mixture.converged


def test_parts_and_sets_are_the_papers_equations_3_to_5():
    losses, _ = planted(400)
    found, density = divide(losses), divide(losses, probability="density")
    m = found.mixture
    low, high = losses.min(), losses.max()
    np.testing.assert_allclose(found.losses, (losses - low) / (high - low), rtol=1e-12)
    assert [*m.set] == [CLEAN if mean <= 0.3 else CLOSED if mean >= 0.9 else OPEN for mean in m.means]
    assert (np.diff(m.means) >= 0).all()
    parts = naive_parts(found.losses, m)
    np.testing.assert_allclose(density.probability, parts, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(found.probability, parts / parts.sum(axis=1, keepdims=True), rtol=1e-9, atol=1e-300)
    np.testing.assert_array_equal(found.set, parts.argmax(axis=1))
    np.testing.assert_array_equal(density.set, found.set)


def test_the_mixture_is_scikit_learns():
    losses, _ = planted(1000)
    found = divide(losses, components=6, reg_covar=1e-3, n_init=2, max_iter=30, tol=1e-4, seed=3)
    model = GaussianMixture(6, reg_covar=1e-3, n_init=2, max_iter=30, tol=1e-4, random_state=3)
    with threadpool_limits(1):
        model.fit(np.sort(found.losses)[:, None])
    chances = model.predict_proba(found.losses[:, None])
    for which, low, high in ((CLEAN, -np.inf, 0.3), (CLOSED, 0.9, np.inf)):
        own = (model.means_[:, 0] >= low) & (model.means_[:, 0] <= high)
        np.testing.assert_allclose(found.probability[:, which], chances[:, own].sum(axis=1), atol=1e-12)


def test_a_mean_on_a_threshold_is_within_it():
    losses = np.array([0.25, 0.75] * 10)
    low, high = divide(losses, scaling="none").mixture.means  # up to rounding the two values
    within = divide(losses, scaling="none", clean=low, closed=high)
    assert within.counts == {"clean": 10, "closed": 10, "open": 0}
    beyond = divide(losses, scaling="none", clean=np.nextafter(low, 0), closed=np.nextafter(high, 1))
    assert beyond.counts == {"clean": 0, "closed": 0, "open": 20}


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_images_makes_no_difference(seed):
    losses, _ = planted(300)
    assert len(np.unique(losses)) == 300
    order = np.random.default_rng(seed).permutation(300)
    straight, shuffled = divide(losses), divide(losses[order])
    assert np.array_equal(straight.set[order], shuffled.set)
    assert np.array_equal(straight.probability[order], shuffled.probability)
    assert np.array_equal(straight.mixture.means, shuffled.mixture.means)


def test_neither_does_the_number_of_threads():
    losses, _ = planted(3000)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(divide(torch.tensor(losses)))
    assert np.array_equal(found[0].probability, found[1].probability)


def test_the_seed_of_k_means_does():
    losses, _ = planted(1000)
    assert not np.array_equal(divide(losses).mixture.means, divide(losses, seed=1).mixture.means)


# What eq. 5 leaves open


def two_groups(seed=0):
    return np.random.default_rng(seed).normal(0, 0.01, 200) + np.repeat([0, 1], 100)


@pytest.mark.parametrize(
    ("losses", "empty"),
    [
        (two_groups(), ("open",)),
        (two_groups() + 0.3 * (two_groups() < 0.5), ("clean",)),  # about 0.3 and 1 before, 0 and 1 after scaling
    ],
)
def test_empty_sets_are_named(losses, empty):
    found = divide(losses, scaling="minmax" if empty == ("open",) else "none", clean=0.2)
    assert found.empty == empty
    assert found.counts[empty[0]] == 0
    assert np.isfinite(found.probability).all()
    assert (found.probability[:, SETS.index(empty[0])] == 0).all()


@pytest.mark.parametrize(("value", "which"), [(0.2, "clean"), (0.5, "open"), (0.98, "closed")])
def test_equal_losses_that_are_not_scaled_are_in_one_set(value, which):
    found = divide(np.full(30, value), scaling="none")
    assert found.counts == {name: 30 * (name == which) for name in SETS}
    assert (len(found.mixture.means), found.narrow, found.undecided) == (1, 1, 0)


def test_components_without_a_width_of_their_own_are_counted():
    losses = np.concatenate([np.full(100, 0.0), np.full(100, 1.0), np.linspace(0.3, 0.7, 100)])
    found = divide(losses, components=3)
    assert found.narrow == 2
    np.testing.assert_allclose(found.mixture.variances[[0, 2]], 5e-4, rtol=1e-3)


def test_ties_go_to_the_nearest_mean_and_are_counted():
    """In the middle between two equal components."""
    equal = Mixture(np.array([0.5, 0.5]), np.array([0.25, 0.75]), np.array([0.01, 0.01]), np.array([CLEAN, OPEN]))
    values = np.array([0.25, 0.5, 0.75])
    nearest, opened = equal.assign(values), equal.assign(values, undecided="open")
    assert nearest.tied.tolist() == [False, True, False]
    assert nearest.set.tolist() == [CLEAN, CLEAN, OPEN]  # the lower of two that are as near
    assert opened.set.tolist() == [CLEAN, OPEN, OPEN]
    np.testing.assert_allclose(nearest.probability[1], [0.5, 0, 0.5])


def test_images_of_no_component_are_counted_and_only_the_density_has_them():
    losses = np.append(np.random.default_rng(0).normal(0.1, 0.001, 9999), 1.5)
    options = {"scaling": "none", "components": 1, "reg_covar": 1e-9}
    assert divide(losses, **options).undecided == 0
    for undecided, which in (("nearest", CLEAN), ("open", OPEN)):
        found = divide(losses, probability="density", undecided=undecided, **options)
        assert (found.undecided, found.underflows) == (1, 1)
        assert found.set[-1] == which
        assert (found.set[:-1] == CLEAN).all()


def test_extremes_can_be_forced_as_in_the_authors_code():
    losses = np.linspace(0.4, 0.6, 50)
    options = {"scaling": "none", "components": 2}
    assert divide(losses, **options).counts == {"clean": 0, "closed": 0, "open": 50}
    forced = divide(losses, force_extremes=True, **options)
    assert (forced.set[0], forced.set[-1]) == (CLEAN, CLOSED)
    assert (forced.set[1:-1] == OPEN).all()


def test_few_images():
    found = divide([0.1, 1.4])
    assert found.set.tolist() == [CLEAN, CLOSED]
    assert len(found.mixture.means) == 2


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([0.1, np.nan, 0.3, np.inf], r"losses of 2 of 4 images are not finite, nan first at position 1"),
        ([0.1], r"1 images cannot be divided"),
        ([], r"0 images cannot be divided"),
    ],
)
def test_losses_that_say_nothing_are_refused(losses, words):
    with pytest.raises(DataError, match=words) as caught:
        divide(losses)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scaling": "robust"}, "unknown scaling 'robust'"),
        ({"scaling": "per_class"}, "needs the given labels of all 40"),
        ({"scaling": "per_class", "labels": [0, 1]}, "needs the given labels of all 40"),
        ({"probability": "p"}, "unknown probability 'p'"),
        ({"undecided": "drop"}, "unknown undecided 'drop'"),
        ({"clean": 0.9}, "must be below that of closed, got 0.9 and 0.9"),
        ({"components": 0}, "n_components"),
        ({"reg_covar": -1}, "reg_covar"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        divide(planted(40)[0], **options)


# Quality


def test_quality():
    true = [CLEAN] * 6 + [CLOSED] * 3 + [OPEN] * 1
    found = [CLEAN] * 4 + [OPEN] * 2 + [CLOSED] * 2 + [CLEAN] + [OPEN]
    measured = quality(found, true)
    assert measured.confusion.tolist() == [[4, 0, 2], [1, 2, 0], [0, 0, 1]]
    assert measured.precision == pytest.approx((4 / 5, 1, 1 / 3))
    assert measured.recall == pytest.approx((4 / 6, 2 / 3, 1))
    assert quality([CLEAN], [CLOSED]).precision == (0, None, None)
    assert quality([CLEAN], [CLOSED]).recall == (None, 0, None)


@pytest.mark.parametrize("true", [[0, -1], [0, 3], [0]])
def test_quality_needs_known_sets(true):
    with pytest.raises(ValueError, match="as many true sets"):
        quality([0, 1], true)


def test_the_sets_are_the_types_of_labels_in_the_same_order():
    assert SETS == TYPES
