import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, truncnorm
from support import small

from dist_rmd.data.labels.instance_noise import CHUNK, instance, instance_view, uniform
from dist_rmd.data.labels.noise import random_words
from dist_rmd.data.loading.memory_reader import MemoryReader
from dist_rmd.data.prepared.beton import open_dataset


def features(count, dimensions=20):
    return np.random.default_rng(1).normal(size=(count, dimensions))


def corrupted(clean, rate, seed, **options):
    return instance(clean, features(len(clean)).__getitem__, rate, 7, seed, **options)


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 6), max_size=300), rate=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_an_exact_count_of_every_class_moves_to_other_classes(labels, rate, seed):
    clean = np.array(labels, np.int64)
    before = clean.copy()
    noisy = corrupted(clean, rate, seed)
    assert noisy.dtype == np.int64
    np.testing.assert_array_equal(clean, before)
    for label in range(7):
        of_class = noisy[clean == label]
        assert (of_class != label).sum() == round(rate * len(of_class))
    assert ((noisy >= 0) & (noisy < 7)).all()


@pytest.mark.parametrize("exact", [True, False])
def test_labels_are_those_of_the_recipe_written_naively(exact):
    clean = np.arange(500) % 7
    x = features(500)
    flip, level, target = uniform(random_words(5, 1500)).reshape(3, 500)
    matrices = [norm.ppf(uniform(random_words((5, 1 + y), 140))).reshape(20, 7) for y in range(7)]
    rates = [truncnorm.ppf(u, (0 - 0.3) / 0.1, (1 - 0.3) / 0.1, loc=0.3, scale=0.1) for u in level]
    odds = [np.log(u / (1 - u)) - np.log(q / (1 - q)) for u, q in zip(flip, rates, strict=True)]
    expected = clean.copy()
    for i, y in enumerate(clean):
        of_class = [odds[j] for j in range(500) if clean[j] == y]
        place = sum(other < odds[i] for other in of_class)
        if place < round(0.3 * len(of_class)) if exact else flip[i] < rates[i]:
            weights = [0.0 if c == y else np.exp(x[i] @ matrices[y][:, c]) for c in range(7)]
            expected[i] = np.searchsorted(np.cumsum(weights) / np.sum(weights), target[i])
    np.testing.assert_array_equal(corrupted(clean, 0.3, 5, exact=exact), expected)


def test_each_label_by_itself_flips_at_the_rate_in_the_mean():
    clean = np.arange(20_000) % 7
    for rate in (0.2, 0.4):
        assert abs((corrupted(clean, rate, 3, exact=False) != clean).mean() - rate) < 0.015


def test_what_an_image_becomes_depends_on_its_pixels():
    """Of one image in many copies all that flip become one class, and not that of every other image."""
    clean, images = np.zeros(3000, np.int64), 1000 * features(6, 200)
    noisy = instance(clean, lambda rows: images[rows % 6], 0.5, 7, seed=1)
    targets = [{*of_image[of_image != 0].tolist()} for of_image in noisy.reshape(-1, 6).T]
    assert all(len(target) == 1 for target in targets)
    assert len(set.union(*targets)) > 1


def test_classes_are_taken_for_others_differently():
    """The first class's matrix is not made of the words that draw the flips."""
    assert not np.array_equal(random_words(3, 8), random_words((3, 1), 8))


def test_the_same_seed_gives_the_same_labels_for_ever():
    noisy = corrupted(np.arange(3000) % 7, 0.4, seed=7)
    assert hashlib.sha256(noisy.astype("<i8").tobytes()).hexdigest() == (
        "8dcf81273ccf771f5fe9473539dc744d3b88a2550fe08770e00b9736a0f1dc8f"
    )
    assert (corrupted(np.arange(3000) % 7, 0.4, seed=8) != noisy).any()


def test_few_images_are_held_at_a_time():
    sizes = []
    x = features(6000)

    def some(rows):
        sizes.append(len(rows))
        return x[rows]

    clean = np.zeros(6000, np.int64)
    noisy = instance(clean, some, 0.5, 2, seed=0)
    assert (noisy == 1).sum() == 3000
    assert max(sizes) <= CHUNK
    assert sum(sizes) == 3000


@pytest.mark.parametrize(("rate", "classes", "labels"), [(1.1, 3, [0]), (0.1, 1, [0]), (0.1, 3, [3]), (0.1, 3, [0.5])])
def test_values_outside_their_range_are_refused(rate, classes, labels):
    with pytest.raises(ValueError, match=r"noise rate|at least 2|outside|integers"):
        instance(labels, features(1).__getitem__, rate, classes, 0)


def test_a_view_has_noise_by_the_normalised_pixels_of_its_images(tmp_path):
    dataset = open_dataset(small.prepare(tmp_path, open_images=5))
    view = instance_view(dataset, 0.4, seed=2, per_class=20, skip=3)
    assert view.counts == {"clean": 120, "closed": 80, "open": 0}
    assert view.origin == {"kind": "instance", "rate": 0.4, "seed": 2, "exact": True}
    ((images, _),) = MemoryReader(dataset.beton("train"), torch.device("cpu")).read([view.indices])
    pixels = (images.numpy() / 255 - np.array(dataset.mean)) / np.array(dataset.std)
    given = instance(view.true, lambda rows: pixels[rows].reshape(len(rows), -1), 0.4, 10, 2)
    np.testing.assert_array_equal(view.given, given)
