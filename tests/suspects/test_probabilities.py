import io

import numpy as np
import pytest
import torch

from dist_rmd.suspects import probabilities
from dist_rmd.suspects.probabilities import Probabilities, grouped

COUNT, CLASSES, MOST = 60, 8, 3


@pytest.fixture(params=["all kept", "few kept"])
def made(request, monkeypatch):
    """Probabilities; the same written naively in double precision; the labels that were given."""
    monkeypatch.setattr(probabilities, "BLOCK", 7)
    monkeypatch.setattr(probabilities, "GATHERED", 100)
    draw = np.random.default_rng(0)
    given = draw.integers(0, CLASSES - 1, COUNT)
    full = draw.dirichlet(np.full(CLASSES, 0.3), COUNT).astype(np.float32)
    expected = full.astype(np.float64)
    if request.param == "few kept":
        monkeypatch.setattr(probabilities, "ALL", 0)
        monkeypatch.setattr(probabilities, "MOST", MOST)
        usual = (np.bincount(given, minlength=CLASSES) + 1) / (COUNT + CLASSES)
        for row, label in zip(expected, given, strict=True):
            others = [c for c in np.argsort(-row) if c != label][MOST - 1 :]
            row[others] = row[others].sum() * usual[others] / usual[others].sum()
    blocks = torch.from_numpy(full).split(9)
    return Probabilities.kept(blocks, torch.from_numpy(given), CLASSES), expected, given


def same(ours, expected):
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_the_given_label_and_the_most_probable_classes_are_exact_and_others_share_the_rest(made):
    ours, expected, given = made
    same(ours.dense(), expected)
    same(torch.cat([block for _, block in ours.blocks()]), expected)
    rows = torch.tensor([5, 50, 7])
    same(ours[rows].dense(), expected[rows])
    same(ours.of(torch.from_numpy(given)), expected[np.arange(COUNT), given])
    same(ours.of(torch.full((COUNT,), 2)), expected[:, 2])
    same(ours.mean(), expected.mean(axis=0))


def test_the_most_probable_class_and_the_most_probable_other_one(made):
    ours, expected, given = made
    classes, most = ours.probable()
    np.testing.assert_array_equal(classes, expected.argmax(axis=1))
    same(most, expected.max(axis=1))
    expected[np.arange(COUNT), given] = -1
    np.testing.assert_array_equal(ours.probable(other_than=torch.from_numpy(given))[0], expected.argmax(axis=1))


def test_votes_are_weighted_sums(made):
    ours, expected, _ = made
    draw = np.random.default_rng(1)
    voters, weights = draw.integers(0, COUNT, (20, 5)), draw.random((20, 5))
    found = ours.votes(torch.from_numpy(voters).int(), torch.from_numpy(weights).float())
    np.testing.assert_allclose(found, (weights[:, :, None] * expected[voters]).sum(axis=1), atol=1e-5)


def test_posteriors_and_their_joint_with_the_labels_are_those_of_bayes(made):
    ours, expected, given = made
    given_as = np.random.default_rng(2).dirichlet(np.ones(CLASSES), CLASSES)
    posterior = expected * given_as[:, given].T
    posterior /= posterior.sum(axis=1, keepdims=True)
    labels, matrix = torch.from_numpy(given), torch.from_numpy(given_as)
    same(torch.cat([*ours.judged(labels, matrix)]), posterior)
    counts = np.stack([posterior[given == label].sum(axis=0) for label in range(CLASSES)], axis=1)
    np.testing.assert_allclose(ours.joint(grouped(labels, CLASSES), matrix), counts, atol=1e-4)


def test_certain_labels_have_probability_one():
    labels = torch.arange(20) % CLASSES
    same(Probabilities.certain(labels, CLASSES).dense(), np.eye(CLASSES)[labels])


def test_what_is_saved_is_read_back(made):
    ours, expected, _ = made
    file = io.BytesIO()
    np.savez(file, **ours.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
        same(Probabilities.loaded(found).dense(), expected)
        same(found["probabilities"].max(axis=1), expected.max(axis=1))  # not what is beyond the usual
