import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from support import naive_suspects

from dist_rmd.suspects.gaussians import Gaussians
from dist_rmd.suspects.probabilities import Probabilities


def some(count=60, dimensions=4, classes=3):
    draw = np.random.default_rng(0)
    return draw.normal(size=(count, dimensions)), draw.dirichlet(np.ones(classes), count), draw.permutation(count) % 5


def judged(points, fold, classes):
    """Probabilities of all points."""
    fitted = Gaussians(torch.from_numpy(points).float(), torch.from_numpy(fold), 5).fitted(Probabilities.whole(classes))
    result = fitted.probabilities(slice(len(points)))
    labels = torch.arange(len(points)) % classes.shape[1]
    torch.testing.assert_close(fitted.of(labels), result[torch.arange(len(points)), labels])
    return result


def test_probabilities_are_those_of_gaussians_fitted_to_the_other_folds():
    points, classes, fold = some()
    ours = judged(points, fold, torch.from_numpy(classes).float())
    np.testing.assert_allclose(ours, naive_suspects.gaussians(points, classes, fold, 5), atol=1e-5)


def test_certain_classes_make_it_linear_discriminant_analysis():
    points, _, fold = some(300)
    labels = np.random.default_rng(1).integers(0, 3, 300)
    points[np.arange(300), labels] += 2
    ours = judged(points, fold, torch.eye(3)[torch.from_numpy(labels)])
    peer = LinearDiscriminantAnalysis(solver="eigen").fit(points[fold != 2], labels[fold != 2])
    assert (ours.argmax(1).numpy() == peer.predict(points))[fold == 2].mean() > 0.95  # which does not shrink


def test_an_image_has_no_say_about_itself_or_its_fold():
    points, classes, fold = some()
    classes = torch.from_numpy(classes).float()
    before = judged(points, fold, classes)
    classes[fold == 3] = torch.tensor([1.0, 0.0, 0.0])
    after = judged(points, fold, classes)
    same = (before == after).all(dim=1).numpy()
    np.testing.assert_array_equal(same, fold == 3)


def test_a_class_that_only_one_fold_has_and_classes_without_images():
    points, _, fold = some()
    labels = torch.zeros(60, dtype=torch.int64)
    labels[fold == 1] = 1
    result = judged(points, fold, torch.eye(4)[labels])
    assert result.isfinite().all()
    assert result[fold == 1, 1].max() < 1e-6
    assert result[:, 2:].max() < 1e-6


def test_points_that_are_all_one_say_how_frequent_classes_are():
    labels = torch.arange(20) % 4 // 3
    result = judged(np.ones((20, 3)), np.arange(20) // 4, torch.eye(2)[labels])
    torch.testing.assert_close(result, torch.tensor([0.75, 0.25]).expand(20, 2), atol=1e-3, rtol=0)
