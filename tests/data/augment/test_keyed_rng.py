"""Keyed draws: pinned, uniform, and unrelated between neighbours in every one of their coordinates."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from dist_rmd.data.augment import keyed_rng
from dist_rmd.data.labels.noise import corrupt

N = 20_000
INDICES = torch.arange(N)


def draws(seed=0, epoch=0, view=0, what="flip"):
    return keyed_rng.uniform(seed, epoch, view, what, INDICES).double().numpy()


def test_values_are_pinned():
    """A change here changes every run that was ever recorded."""
    assert keyed_rng.bits(1, 2, 0, "flip", torch.tensor([0, 1, 2, 49_999, 2**32 - 1])).tolist() == [
        358272605,
        4246254161,
        2853812357,
        4076611349,
        1293804191,
    ]
    assert keyed_rng.epoch_order(8, seed=1, epoch=2).tolist() == [1, 2, 5, 3, 7, 6, 4, 0]
    assert keyed_rng.key(1, 2, 0, "jitter order 3") == 9179753313205433780


def test_bits_equal_the_same_hash_in_python_integers():
    def mix(x):
        for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
            x = (x ^ (x >> shift)) * factor % 2**32
        return x ^ (x >> 15)

    key = keyed_rng.key(3, 5, 1, "gray")
    got = keyed_rng.bits(3, 5, 1, "gray", torch.arange(2**32 - 100, 2**32)).tolist()
    assert got == [mix(mix(i ^ (key >> 32)) ^ (key % 2**32)) for i in range(2**32 - 100, 2**32)]


@pytest.mark.parametrize("coordinates", [{}, {"seed": 1}, {"epoch": 999}, {"view": 1}, {"what": "crop area 9"}])
def test_uniform(coordinates):
    values = draws(**coordinates)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-4
    # pairs of neighbouring indices fill the unit square evenly
    counts, _, _ = np.histogram2d(values[::2], values[1::2], bins=16, range=[[0, 1], [0, 1]])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4
    # and so does every single bit
    bits = keyed_rng.bits(0, 0, 0, "flip", INDICES)
    ones = torch.stack([(bits >> i) & 1 for i in range(32)]).double().mean(1)
    assert (ones - 0.5).abs().max() < 5 * 0.5 / N**0.5


def test_neighbours_are_uncorrelated():
    families = [
        [draws(epoch=e) for e in range(12)],
        [draws(seed=s) for s in range(12)],
        [draws(view=v) for v in range(12)],
        [draws(what=f"crop area {t}") for t in range(12)],
        [np.roll(draws(), shift) for shift in range(12)],
    ]
    for family in families:
        for a, b in itertools.combinations(family, 2):
            assert abs(np.corrcoef(a, b)[0, 1]) < 5 / N**0.5


def test_flipping_one_bit_of_the_index_flips_half_of_the_draw():
    base = keyed_rng.bits(0, 0, 0, "flip", INDICES)
    for bit in range(20):
        changed = base ^ keyed_rng.bits(0, 0, 0, "flip", INDICES ^ (1 << bit))
        rates = torch.stack([(changed >> i) & 1 for i in range(32)]).double().mean(1)
        assert (rates - 0.5).abs().max() < 0.03, bit


def test_draws_do_not_depend_on_their_company():
    everything = keyed_rng.bits(0, 7, 1, "hue", INDICES[:100])
    assert torch.equal(torch.cat([keyed_rng.bits(0, 7, 1, "hue", part) for part in INDICES[:100].split(7)]), everything)


def test_below_is_uniform_over_its_integers():
    counts = np.bincount(keyed_rng.below(keyed_rng.bits(0, 0, 0, "crop top", INDICES), 9), minlength=9)
    assert len(counts) == 9
    assert stats.chisquare(counts).pvalue > 1e-4


def test_epoch_orders_are_permutations_that_differ():
    orders = [keyed_rng.epoch_order(1000, seed, epoch) for seed, epoch in itertools.product(range(4), range(4))]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(1000))
    assert len({order.tobytes() for order in orders}) == 16  # (seed 1, epoch 0) is not (seed 0, epoch 1)
    assert np.array_equal(orders[5], keyed_rng.epoch_order(1000, 1, 1))


@pytest.mark.parametrize(("size", "world"), [(64, 1), (64, 3), (2, 3), (0, 2), (7, 7)])
def test_shards_cut_the_batch_without_gaps(size, world):
    parts = [np.arange(size)[keyed_rng.shard(size, rank, world)] for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), np.arange(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_epoch_orders_know_nothing_of_label_noise_of_the_same_seed(seed, epoch):
    labels = np.arange(N) % 10
    wrong = corrupt(labels, "symmetric", 0.4, 10, seed) != labels
    shares = [part.mean() for part in np.array_split(wrong[keyed_rng.epoch_order(N, seed, epoch)], 4)]
    assert shares == pytest.approx([0.4] * 4, abs=0.03)  # six standard errors of a quarter's share


def test_normals_are_finite_from_the_lowest_bits_to_the_highest():
    low, middle, high = keyed_rng.normal(torch.tensor([0, 2**31, 2**32 - 1])).tolist()
    assert low == pytest.approx(-6.3379, abs=1e-3)
    assert high == pytest.approx(-low, rel=1e-6)
    assert middle == pytest.approx(0, abs=1e-9)
