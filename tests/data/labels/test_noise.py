import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rmd.data.labels.noise import OPEN, corrupt, openset, transitions


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(0, 6), max_size=300),
    rate=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_symmetric_moves_an_exact_count_of_every_class_to_other_classes(labels, rate, seed):
    clean = np.array(labels, np.int64)
    before = clean.copy()
    noisy = corrupt(clean, "symmetric", rate, 7, seed)
    assert noisy.dtype == np.int64
    np.testing.assert_array_equal(clean, before)
    for label in range(7):
        of_class = noisy[clean == label]
        assert (of_class != label).sum() == round(rate * len(of_class))
    assert ((noisy >= 0) & (noisy < 7)).all()


def test_symmetric_spreads_its_targets_evenly():
    clean = np.repeat(np.arange(10), 4000)
    noisy = corrupt(clean, "symmetric", 0.5, 10, seed=3)
    for label in range(10):
        counts = np.bincount(noisy[(clean == label) & (noisy != label)], minlength=10)
        others = np.delete(counts, label)
        expected = 2000 / 9
        assert ((others - expected) ** 2 / expected).sum() < 31.8  # chi-square with 8 degrees of freedom, p = 1e-4


def test_symmetric_picks_its_victims_evenly():
    """Every position is moved in about `rate` of 400 seeds."""
    clean = np.repeat(np.arange(4), 25)
    moved = sum((corrupt(clean, "symmetric", 0.4, 4, seed) != clean).astype(int) for seed in range(400))
    assert moved.sum() == 400 * 40
    assert abs(moved - 160).max() < 5 * np.sqrt(400 * 0.4 * 0.6)


def test_a_higher_rate_moves_the_same_labels_and_more():
    clean = np.arange(1000) % 10
    low, high = (corrupt(clean, "symmetric", rate, 10, seed=1) for rate in (0.2, 0.6))
    changed = low != clean
    np.testing.assert_array_equal(low[changed], high[changed])


def test_the_same_seed_gives_the_same_labels_for_ever():
    clean = np.arange(5000) % 10
    noisy = corrupt(clean, "symmetric", 0.4, 10, seed=7)
    assert hashlib.sha256(noisy.astype("<i8").tobytes()).hexdigest() == (
        "a1a5d56dafb05a6530a7a828f7d36fa9aad0e4cf59190d82ed389662e0c96336"
    )
    assert (corrupt(clean, "symmetric", 0.4, 10, seed=8) != noisy).any()


def test_symmetric_may_include_the_true_class():
    """DivideMix's convention: a tenth of the chosen stays right."""
    clean = np.repeat(np.arange(10), 4000)
    noisy = corrupt(clean, "symmetric", 0.5, 10, seed=3, include_true=True)
    assert abs((noisy != clean).mean() - 0.45) < 0.01
    counts = np.bincount(noisy[corrupt(clean, "pairflip", 0.5, 10, seed=3) != clean], minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 33.7  # of the same chosen; chi-square, 9 degrees of freedom, p = 1e-4


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 6), max_size=300), rate=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_pairflip_and_asymmetric_move_an_exact_count_to_one_class(labels, rate, seed):
    clean = np.array(labels, np.int64)
    flipped = corrupt(clean, "pairflip", rate, 7, seed)
    mapped = corrupt(clean, "asymmetric", rate, 7, seed, class_map={2: 0, 3: 5, 5: 3})
    for label in range(7):
        count = round(rate * (clean == label).sum())
        assert (flipped[clean == label] == (label + 1) % 7).sum() == count
        assert (flipped[clean == label] == label).sum() == (clean == label).sum() - count
        target = {2: 0, 3: 5, 5: 3}.get(label, label)
        assert (mapped[clean == label] == target).sum() == (count if target != label else (clean == label).sum())
    # Both ways at once, from the clean labels: a cat made dog is not made cat again.
    assert ((mapped == flipped) | np.isin(clean, (2, 3, 5)) | (mapped == clean)).all()


def test_each_label_by_itself():
    """Counts fluctuate as a binomial's do, over seeds and classes, and their mean is the rate."""
    clean = np.repeat(np.arange(10), 100)
    counts = np.array([
        [(corrupt(clean, "pairflip", 0.3, 10, seed, exact=False) != clean)[clean == label].sum() for label in range(10)]
        for seed in range(100)
    ])  # fmt: skip
    assert abs(counts.mean() - 30) < 5 * np.sqrt(21 / 1000)
    assert 18 < counts.var() < 24.5  # 21, with a standard error of 0.95
    assert (corrupt(clean, "pairflip", 1.0, 10, 0, exact=False) != clean).all()


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "pairflip"])
@pytest.mark.parametrize("exact", [True, False])
def test_a_higher_rate_moves_more_of_the_same(kind, exact):
    clean = np.arange(1000) % 10
    low, high = (corrupt(clean, kind, rate, 10, 1, {0: 1, 1: 0}, exact) for rate in (0.2, 0.6))
    changed = low != clean
    assert changed.any()
    np.testing.assert_array_equal(low[changed], high[changed])
    assert (high != clean).sum() > changed.sum()


def test_transitions_are_counted():
    np.testing.assert_array_equal(transitions([0, 0, 1, 2], [0, 1, 1, 0], 3), [[1, 1, 0], [0, 1, 0], [1, 0, 0]])


def test_transitions_of_images_of_none_of_the_classes_are_the_last_row():
    np.testing.assert_array_equal(transitions([0, OPEN, 1, OPEN], [0, 1, 0, 1], 2), [[1, 0], [1, 0], [0, 2]])


def test_none_and_rate_zero_change_nothing():
    clean = np.array([2, 0, 1, 1])
    for kind, rate in (("none", 0.5), ("symmetric", 0.0)):
        noisy = corrupt(clean, kind, rate, 3, seed=0)
        np.testing.assert_array_equal(noisy, clean)
        assert noisy is not clean


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], "symetric", 0.1, 2, 0), "unknown noise kind 'symetric'"),
        (([0, 1], "symmetric", 1.1, 2, 0), r"outside \[0, 1\]"),
        (([0, 1], "symmetric", -0.1, 2, 0), r"outside \[0, 1\]"),
        (([0, 1], "symmetric", float("nan"), 2, 0), r"outside \[0, 1\]"),
        (([0, 2], "symmetric", 0.1, 2, 0), r"labels 0..2 are outside 0..1"),
        (([-1, 1], "none", 0.1, 2, 0), r"labels -1..1 are outside 0..1"),
        (([0.0, 1.0], "none", 0.1, 2, 0), "integers"),
        (([[0, 1]], "none", 0.1, 2, 0), "integers"),
        (([0, 0], "symmetric", 0.1, 1, 0), "at least 2 classes"),
        (([0, 0], "asymmetric", 0.1, 2, 0), "needs a class_map"),
        (([0, 0], "asymmetric", 0.1, 2, 0, {0: 2}), r"class 2, which is outside 0..1"),
        (([0, 0], "asymmetric", 0.1, 2, 0, {-1: 0}), r"class -1, which is outside 0..1"),
        (([0, 0], "asymmetric", 0.1, 2, 0, {1: 1}), "class 1 to itself"),
    ],
)
def test_values_outside_their_range(arguments, message):
    labels, *rest = arguments
    with pytest.raises(ValueError, match=message):
        corrupt(np.array(labels), *rest)


# Closed-set and open-set noise


@pytest.mark.parametrize("rho1", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("rho2", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("classes", [10, 100])
def test_the_papers_nine_settings_have_exact_counts(rho1, rho2, classes):
    true = np.arange(50_000) % classes
    given, taken = openset(true, 40_000, rho1, rho2, classes, seed=0)
    opened = taken >= 0
    assert opened.sum() == rho1 * rho2 * 50_000
    assert ((given != true) & ~opened).sum() == rho1 * (1 - rho2) * 50_000
    assert ((given == true) & ~opened).sum() == (1 - rho1) * 50_000
    assert len(set(taken[opened])) == opened.sum()


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(0, 6), max_size=200),
    rho1=st.floats(0, 1),
    rho2=st.floats(0, 1),
    spare=st.integers(0, 50),
    seed=st.integers(0, 2**32),
)
def test_any_setting_has_the_counts_it_asks_for(labels, rho1, rho2, spare, seed):
    true = np.array(labels, np.int64)
    noisy, expected = round(rho1 * len(true)), round(rho1 * rho2 * len(true))
    given, taken = openset(true, expected + spare, rho1, rho2, 7, seed)
    opened = taken != OPEN
    assert opened.sum() == len(set(taken[opened])) == expected
    assert ((given != true) & ~opened).sum() == noisy - expected
    assert ((taken < expected + spare) & (taken >= OPEN)).all()
    assert ((given >= 0) & (given < 7)).all()
    assert given.dtype == taken.dtype == np.int64


@pytest.mark.parametrize(
    ("rho1", "rho2", "clean", "opened"), [(0, 0, 90, 0), (0, 1, 90, 0), (1, 0, 0, 0), (1, 1, 0, 90), (0.5, 1, 45, 45)]
)
def test_none_some_and_all(rho1, rho2, clean, opened):
    true = np.arange(90) % 9
    given, taken = openset(true, opened, rho1, rho2, 9, seed=4)
    assert (taken >= 0).sum() == opened
    assert ((given == true) & (taken < 0)).sum() == clean


def test_open_labels_are_spread_evenly_and_closed_ones_over_the_other_classes():
    true = np.repeat(np.arange(10), 4000)
    given, taken = openset(true, 20_000, 1.0, 0.5, 10, seed=3)
    opened = taken >= 0
    counts = np.bincount(given[opened], minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 33.7  # chi-square with 9 degrees of freedom, p = 1e-4
    for label in range(10):
        closed = given[~opened & (true == label)]
        others = np.delete(np.bincount(closed, minlength=10), label)
        assert others.sum() == len(closed)
        assert ((others - len(closed) / 9) ** 2 / (len(closed) / 9)).sum() < 31.8  # 8 degrees of freedom
    of_class = np.bincount(true[opened], minlength=10)
    assert ((of_class - 2000) ** 2 / 1000).sum() < 33.7  # which images give way does not depend on their class


def test_the_authors_conventions_are_options():
    """Closed labels among which the true one may be; open images under the labels of those that they replace."""
    true = np.repeat(np.arange(10), 400)
    plain = openset(true, 1000, 0.5, 0.5, 10, seed=3)
    given, taken = openset(true, 1000, 0.5, 0.5, 10, seed=3, include_true=True, keep_label=True)
    np.testing.assert_array_equal(taken, plain[1])
    opened, closed = taken >= 0, (taken < 0) & (plain[0] != true)
    np.testing.assert_array_equal(given[opened], true[opened])
    assert 60 < (given[closed] == true[closed]).sum() < 140  # of 1000, a tenth
    assert 50 < (plain[0][opened] == true[opened]).sum() < 150


def test_more_noise_keeps_what_there_was():
    true = np.arange(1000) % 10
    (low, few), (high, many) = (openset(true, 900, rho1, 0.5, 10, seed=1) for rho1 in (0.4, 0.8))
    assert ((high != true) | (many >= 0))[(low != true) | (few >= 0)].all()
    np.testing.assert_array_equal(many[few >= 0], few[few >= 0])
    other = openset(true, 900, 0.4, 0.5, 10, seed=2)
    assert (other[0] != low).any()
    assert (other[1] != few).any()


def test_the_same_seed_gives_the_same_set_for_ever():
    given, taken = openset(np.arange(5000) % 10, 2000, 0.5, 0.5, 10, seed=7)
    digest = hashlib.sha256(given.astype("<i8").tobytes() + taken.astype("<i8").tobytes()).hexdigest()
    assert digest == ("2ccd81959cfc7f3eb24ed47db88d84ca56cdaa9060af848e6797c38c3d6fc08c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], 9, 1.1, 0.5, 2, 0), r"rho1 1.1 is outside \[0, 1\]"),
        (([0, 1], 9, 0.5, -0.1, 2, 0), r"rho2 -0.1 is outside \[0, 1\]"),
        (([0, 1], 9, 0.5, float("nan"), 2, 0), r"rho2 nan is outside \[0, 1\]"),
        (([0, 2], 9, 0.5, 0.5, 2, 0), r"labels 0..2 are outside 0..1"),
        (([0, 1, 0, 1], 1, 1.0, 0.5, 2, 0), "2 images of none of the classes are needed, but there are 1"),
        (([0, 0], 9, 0.5, 0.0, 1, 0), "at least 2 classes"),
    ],
)
def test_openset_values_outside_their_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        openset(*arguments)
