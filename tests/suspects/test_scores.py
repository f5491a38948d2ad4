import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from support import naive_suspects
from torch.utils._python_dispatch import TorchDispatchMode

from dist_rmd.data.labels.noise import corrupt
from dist_rmd.evaluation import _nearest
from dist_rmd.suspects import probabilities, scores
from dist_rmd.suspects.probabilities import Probabilities
from dist_rmd.suspects.scores import neighbours, suspicion, whitened


def clusters(count=400, classes=4, dimensions=8, apart=3.0):
    """Features and the class of each: a Gaussian cloud for each class."""
    draw = np.random.default_rng(0)
    true = np.arange(count) % classes
    return draw.normal(size=(count, dimensions)) + 1 + apart * np.eye(dimensions)[true], true


def judged(features, given, classes=4, **options):
    return suspicion(torch.from_numpy(features), torch.from_numpy(given), classes, **options)


@pytest.mark.parametrize("apart", [0.7, 3.0])  # features that do not tell the classes apart, and that do
@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
def test_numbers_are_those_of_the_method_written_naively(kind, apart):
    features, true = clusters(120, apart=apart)
    given = corrupt(true, kind, 0.3, 4, seed=0)
    found = judged(features, given)
    right, probable, least, most = naive_suspects.suspicion(features, given, 4)
    np.testing.assert_allclose(found.right, right, atol=1e-4)
    np.testing.assert_array_equal(found.probable, probable)
    np.testing.assert_allclose(found.least, least, atol=0.01)
    np.testing.assert_allclose(found.most, most, atol=0.01)


class Largest(TorchDispatchMode):
    """Watches how many bytes the largest tensor has."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            self.size = max(self.size, made.untyped_storage().size() if torch.is_tensor(made) else 0)
        return result


def test_of_many_images_and_classes_only_the_most_probable_classes_are_kept(monkeypatch):
    """No tensor has half as many float32 as there are images x classes; the results are almost those of all classes."""
    count, classes = 600, 60
    draw, true = np.random.default_rng(0), np.arange(count) % classes
    features = (draw.normal(size=(count, 8)) + 2 * draw.normal(size=(classes, 8))[true]).astype(np.float32)
    given = corrupt(true, "symmetric", 0.3, classes, seed=0)
    monkeypatch.setattr(scores, "STEPS", 3)
    whole = judged(features, given, classes)
    for name, value in {"ALL": 0, "MOST": 20, "BLOCK": 100, "GATHERED": 4000}.items():
        monkeypatch.setattr(probabilities, name, value)
    monkeypatch.setattr(_nearest, "ROWS", 20)
    with Largest() as largest:
        found = judged(features, given, classes)
    assert largest.size < count * classes * 4 / 2
    assert (found.right - whole.right).abs().max() < 0.02
    assert (found.probable == whole.probable).float().mean() > 0.99
    torch.testing.assert_close(found.given, whole.given)
    torch.testing.assert_close(found.share, whole.share)
    np.testing.assert_allclose(found.least.sum(), whole.least.sum(), rtol=0.01)
    np.testing.assert_allclose(found.most.sum(), whole.most.sum(), rtol=0.01)


@pytest.mark.parametrize(("kind", "rate"), [("symmetric", 0.2), ("symmetric", 0.5), ("pairflip", 0.4)])
def test_wrong_labels_among_separate_clusters_are_found_and_mended(kind, rate):
    features, true = clusters(apart=6.0)
    given = corrupt(true, kind, rate, 4, seed=0)
    found, wrong = judged(features, given), given != true
    assert roc_auc_score(wrong, -found.right) > 0.995
    assert (found.proposed.numpy() == true)[wrong].mean() > 0.98
    assert (found.probable.numpy() == true).mean() > 0.97
    assert wrong.sum() * 0.8 < found.least.sum() <= wrong.sum() * 1.02
    assert found.most.sum() >= wrong.sum() * 0.95


def test_right_labels_are_left_alone():
    features, true = clusters(apart=6.0)
    found = judged(features, true)
    np.testing.assert_array_equal(found.probable, true)
    assert (found.proposed != torch.from_numpy(true)).all()
    assert found.most.sum() < 4
    assert found.share.mean() > 0.95


def test_the_order_of_images_does_not_matter_to_neighbours():
    features, true = clusters(200)
    given = corrupt(true, "symmetric", 0.3, 4, seed=0)
    order = np.random.default_rng(3).permutation(200)
    one, other = judged(features, given), judged(features[order], given[order])
    np.testing.assert_allclose(one.share[order], other.share, atol=1e-5)


def test_a_class_without_images_is_proposed_to_nobody():
    features, true = clusters(classes=3)
    found = judged(features, true, classes=5)
    assert set(found.proposed.tolist()) <= {0, 1, 2}
    assert found.most[3:].tolist() == found.least[3:].tolist() == [0, 0]


def test_whitened_features_vary_alike_in_all_directions():
    features = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) + 3
    covariance = whitened(features).T.cov()
    variances = covariance.diagonal()
    assert variances.max() / variances.min() < 1.7
    torch.testing.assert_close(covariance, variances.diag(), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("count", "classes", "voices"), [(50_000, 10, 160), (1437, 10, 71), (20, 10, 1), (3, 2, 1), (2, 1, 1)]
)
def test_half_a_class_has_a_voice(count, classes, voices):
    assert neighbours(count, classes) == voices


@pytest.mark.parametrize(
    ("features", "classes", "reason"),
    [
        (torch.ones(3, 2), 2, "3 images in 2 classes"),
        (torch.ones(9, 2), 1, "9 images in 1 classes"),
        (torch.ones(9, 2), 2, "the network has collapsed"),
    ],
)
def test_features_that_say_nothing_are_refused(features, classes, reason):
    with pytest.raises(ValueError, match=reason):
        suspicion(features, torch.zeros(len(features), dtype=torch.int64), classes)


def test_networks_have_half_a_say():
    """Where features say little, networks that know the classes rank and mend the labels; useless ones cost little."""
    features, true = clusters(apart=1.5)
    given = corrupt(true, "symmetric", 0.3, 4, seed=0)
    wrong = given != true
    known = torch.from_numpy(0.2 / 3 + (0.8 - 0.2 / 3) * np.eye(4)[true]).float()
    alone, helped = judged(features, given), judged(features, given, networks=Probabilities.whole(known))
    assert roc_auc_score(wrong, -helped.right) > 0.99 > roc_auc_score(wrong, -alone.right)
    assert (helped.probable.numpy() == true).mean() > (alone.probable.numpy() == true).mean() + 0.05
    torch.testing.assert_close(helped.given, known[torch.arange(len(given)), torch.from_numpy(given)])
    useless = judged(features, given, networks=Probabilities.whole(torch.full((len(given), 4), 0.25)))
    assert roc_auc_score(wrong, -useless.right) > roc_auc_score(wrong, -alone.right) - 0.03
