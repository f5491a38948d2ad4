"""Scores how suspect each label is, from features that were trained without labels: two out-of-sample opinions.

The features are whitened.  Two opinions then predict the given label of each image from other images only: the labels
of the nearest neighbours, without the image itself, and a Gaussian for each class, fitted to the images of other folds.
A noise matrix (how often each class is given as each label) turns predictions of labels into probabilities of classes.
A second round uses the probable classes in place of the labels.

For the ranking, the noise matrix is counted and mixed with symmetric noise, since poor features confuse classes that
the labels do not confuse.  For the proposed labels, the matrix is the most likely one, which calls fewer labels wrong.
If the features are good, more rounds follow with the most likely matrix, and the ranking is the mean of both.

Probabilities by classifiers that were not trained on the image may be given, too; they count half beside the features.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dist_rmd.suspects.gaussians import Fitted, Gaussians
from dist_rmd.suspects.neighbours import Neighbours
from dist_rmd.suspects.probabilities import Probabilities, blocks, grouped

# The constants were chosen on other images than those of the comparison in docs/suspects.md, which tells how.
WHITENING = 0.1  # added to the variances, in units of their mean
NEIGHBOURS = 160  # largest number of neighbours; in small sets half the mean size of a class
SYMMETRIC = 2.0  # weight of symmetric noise beside the counted noise
STEPS = 30  # steps of expectation-maximisation
ROUNDS = 4  # further rounds, where the features tell the classes apart
AGREED = 2.0  # features tell classes apart where two counts of the wrong labels differ by less than this factor


@dataclass(frozen=True)
class Suspicion:
    """Scores of N labels in C classes; all tensors are on the features' device.

    right: N float32, 0..1, the probability that the given label is right, as far as features tell classes apart; the
        least probable labels are the most suspect.
    probable: N int64, the most probable class, which is the given label for most images.
    proposed: N int64, the most probable of the other classes.
    given: N float32, 0..1, the probability of the given label by classifiers that have not seen the image; without
        classifiers, by the Gaussians of the other folds.
    share: N float32, 0..1, weighted share of the nearest neighbours that have the given label.
    least, most: C float64, how many labels of each given class are wrong, by the most likely matrix and by the joint of
        confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068).  As a rule the true number lies
        between `least` and `most`, which are far apart where the features are poor.
    near: the nearest neighbours.
    posterior: the probability of each class, the largest that of `probable`.
    """

    right: Tensor
    probable: Tensor
    proposed: Tensor
    given: Tensor
    share: Tensor
    least: Tensor
    most: Tensor
    near: Neighbours
    posterior: Probabilities


@torch.inference_mode()
def suspicion(
    features: Tensor, given: Tensor, classes: int, folds: int = 5, networks: Probabilities | None = None
) -> Suspicion:
    """Judge N labels (int64, 0..classes-1) by N x D features (floating, same device) that have not been fitted to them.

    folds: 2 or more, number of folds of the images for the Gaussians; always the same folds.
    networks: probabilities of the classes by classifiers that learned the labels of other images alone.

    Time grows as N log N and with C, memory with N (2 k + 2 D + 2 C), or with C squared; for more than `ALL`
    probabilities (`suspects/probabilities.py`) a number in place of C.  Raises ValueError for fewer than four images,
    fewer than two classes, and features that are all the same.
    """
    count = len(features)
    if count < 4 or classes < 2:
        raise ValueError(f"{count} images in {classes} classes say nothing of each other")
    points = whitened(features)
    gaussians = Gaussians(points, torch.from_numpy(parts(count, folds)).to(points.device), folds)
    near = Neighbours.of(points, neighbours(count, classes))
    images = given.bincount(minlength=classes).double()
    groups = grouped(given, classes)
    kept = functools.partial(Probabilities.kept, given=given, classes=classes)

    def heard(posterior: Probabilities, fitted: Fitted) -> Probabilities:
        """The opinions of the other images, whose classes are known by `posterior`, and of the networks."""
        mean, voices = posterior.mean(), near.nearest.shape[1]

        def block(rows: slice) -> Tensor:
            # The mean of all images votes as one more neighbour.
            votes = (near.shares(posterior, rows) * voices + mean) / (voices + 1)
            features_say = (votes + fitted.probabilities(rows)) / 2
            return features_say if networks is None else (features_say + networks[rows].dense()) / 2

        return kept(block(rows) for rows in blocks(count))

    # What is not needed any more is deleted at once: each opinion and posterior may be the largest thing in memory.
    labels = Probabilities.certain(given, classes)
    first = gaussians.fitted(labels)
    opinion = heard(labels, first)
    given_as = mixed(counted(opinion.probable()[0], given, classes))
    posterior, counts = kept(opinion.judged(given, given_as)), opinion.joint(groups, given_as)
    del opinion
    opinion = heard(posterior, gaussians.fitted(posterior))
    del posterior
    posterior = kept(opinion.judged(given, mixed(counts)))
    right = posterior.of(given)
    ranked = None if networks is None else posterior

    for number in range(ROUNDS):
        if number:
            del opinion
            opinion = heard(posterior, gaussians.fitted(posterior))
        del posterior
        given_as = likeliest(opinion, groups)
        posterior = kept(opinion.judged(given, given_as))
        least = images - opinion.joint(groups, given_as).diagonal()
        most = confidently_wrong(opinion, given)
        tells_apart = bool(least.sum() * AGREED > most.sum())
        if not tells_apart:
            break
    if tells_apart:
        right = (right + posterior.of(given)) / 2
    elif ranked is not None:  # the networks' word is enough to take another class
        posterior = ranked
    own = first.of(given) if networks is None else networks.of(given)
    probable, proposed = posterior.probable()[0], posterior.probable(other_than=given)[0]
    return Suspicion(right, probable, proposed, own, near.like(given), least, most, near, posterior)


def parts(count: int, folds: int) -> NDArray[np.int64]:
    """The fold of each of `count` images, 0..folds-1: always the same; folds are of equal sizes."""
    return np.random.default_rng(0).permutation(count) % folds


def neighbours(count: int, classes: int) -> int:
    """The number of neighbours that vote among `count` images."""
    return max(1, min(NEIGHBOURS, count // (2 * classes), count - 1))


def whitened(features: Tensor) -> Tensor:
    """Whiten the directions of features N x D: rotate and scale them to (almost) equal variances, float32.

    Raises ValueError where the features are all the same.
    """
    unit = torch.cat([F.normalize(rows.float()) for rows in features.split(4096)])
    mean = unit.mean(dim=0, dtype=torch.float64)
    squares = sum((rows.double().T @ rows.double() for rows in unit.split(4096)), torch.zeros(()).to(mean))
    variances, axes = torch.linalg.eigh(squares / len(unit) - mean.outer(mean))
    level = variances.clamp(min=0)
    if not level.mean() > 1e-12:  # for unit vectors so small a variance is rounding
        raise ValueError("the features of all images are the same: the network has collapsed")
    scaled = axes / (level + WHITENING * level.mean()).sqrt()
    return torch.cat([((rows - mean) @ scaled).float() for rows in unit.split(4096)])


def counted(classes: Tensor, given: Tensor, number: int) -> Tensor:
    """Count images by class (row) and given label (column), both N int64: C x C float64; `number` is C."""
    return (classes * number + given).bincount(minlength=number**2).view(number, number).double()


def mixed(counts: Tensor) -> Tensor:
    """Probabilities of labels (columns) by class (rows), C x C: counts mixed with symmetric noise of the same rate.

    One is added to each count, so that no label is impossible.
    """
    seen = counts + 1
    wrong = float(1 - seen.trace() / seen.sum())
    symmetric = torch.full_like(seen, wrong / (len(seen) - 1)).fill_diagonal_(1 - wrong)
    return (seen / seen.sum(dim=1, keepdim=True) + SYMMETRIC * symmetric) / (1 + SYMMETRIC)


def likeliest(opinion: Probabilities, groups: Sequence[Tensor]) -> Tensor:
    """The most likely probabilities of labels by class, C x C, by expectation-maximisation.

    opinion: the probabilities without the given label.  groups: the images with each label.  A tenth of an image is
    added for each class and label, so that no label is impossible.
    """
    classes = len(opinion.usual)
    found = torch.full((classes, classes), 0.3 / (classes - 1), dtype=torch.float64, device=opinion.usual.device)
    found.fill_diagonal_(0.7)
    for _ in range(STEPS):
        counts = opinion.joint(groups, found) + 0.1
        found = counts / counts.sum(dim=1, keepdim=True)
    return found


def confidently_wrong(opinion: Probabilities, given: Tensor) -> Tensor:
    """The number of wrong labels of each given class by the confident joint, scaled to the class: C float64.

    An image counts for its most probable class among the classes that are at least as probable for it as they are on
    average for the images given as this class.
    """
    classes = len(opinion.usual)
    images = given.bincount(minlength=classes).double()
    usual = torch.zeros_like(images).index_add_(0, given, opinion.of(given).double()) / images
    # Never a class without images, where `usual` is NaN.
    sure = [torch.where(some >= usual, some, -1).max(dim=1) for _, some in opinion.blocks()]
    values, which = (torch.cat(column) for column in zip(*sure, strict=True))
    counts = counted(which[values >= 0], given[values >= 0], classes)
    right = counts.diagonal() / counts.sum(dim=0)
    return images * (1 - right.nan_to_num(1.0))
