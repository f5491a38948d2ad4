"""How far an encoder's features tell wrongly labelled images from the others: what figs. 5-7 of RMDNet show the eye."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

NEIGHBOURS = 10  # few, as where labels are checked against their neighbours' (k-NN of SimiFeat, arXiv:2110.06283)
SIMILARITIES = 2**24  # cosines held at a time: 64 MiB, since N x N would take 10 GB for CIFAR


@dataclass(frozen=True)
class Separation:
    """What N features say of N labels.  None where there is nothing to measure it on.

    images, mislabelled: how many there are in all, and how many of them are given another label than the true one.
    auroc: 0..1, area under the ROC curve of "mislabelled" by the distance to the given class (`distances`): the share
        of pairs (mislabelled, clean) in which the mislabelled image is farther from its class.  0.5 is chance.
    neighbours: the k of what follows.
    given_clean, given_mislabelled: 0..1, mean share of an image's k nearest neighbours that carry its given label.
    true_clean, true_mislabelled: 0..1, the same for true labels.  Features that the labels have not touched have the
        same value in both, up to chance; features that were trained to fit wrong labels a lower second one.
    """

    images: int
    mislabelled: int
    auroc: float | None
    neighbours: int
    given_clean: float | None
    given_mislabelled: float | None
    true_clean: float | None
    true_mislabelled: float | None


@torch.inference_mode()
def separation(features: Tensor, given: Tensor, true: Tensor, neighbours: int = NEIGHBOURS) -> Separation:
    """Measure features N x D (floating, any device) under given and true labels (N, int64 >= 0, same device).

    True labels may be -1, of open-set images, which count as one class.
    `neighbours` >= 1 is k; with N <= k it is N - 1.  Raises ValueError for fewer than two images.
    """
    if len(features) < 2:
        raise ValueError(f"{len(features)} images have no neighbours, two at least are needed")
    neighbours = min(neighbours, len(features) - 1)
    wrong = given != true
    distance = distances(features, given)
    measured = ~distance.isnan()
    found = wrong[measured].unique()  # of an AUROC's two classes
    same_given, same_true = agreement(features, (given, true), neighbours)
    return Separation(
        images=len(features),
        mislabelled=int(wrong.sum()),
        auroc=float(roc_auc_score(wrong[measured].cpu(), distance[measured].cpu())) if len(found) == 2 else None,
        neighbours=neighbours,
        given_clean=_mean(same_given[~wrong]),
        given_mislabelled=_mean(same_given[wrong]),
        true_clean=_mean(same_true[~wrong]),
        true_mislabelled=_mean(same_true[wrong]),
    )


def distances(features: Tensor, given: Tensor) -> Tensor:
    """Cosine distance (N, float64, 0..2) of each image to the centre of its given class; NaN where it is alone there.

    The cosine, since the relations of RMDNet and nearest neighbours go by directions too, and since lengths differ
    between images and networks for reasons that have nothing to do with labels (contrast, weight decay).  The centre is
    the mean of the unit features of the *other* images of the class: with itself in it, an image of a small class would
    be near in any case, and distances could not be compared between classes of different sizes.
    """
    sums = torch.zeros(int(given.max()) + 1, features.shape[1], dtype=torch.float64, device=features.device)
    parts = list(zip(features.split(4096), given.split(4096), strict=True))
    for rows, labels in parts:
        sums.index_add_(0, labels, F.normalize(rows.double()))
    cosines = []
    for rows, labels in parts:
        unit = F.normalize(rows.double())
        cosines.append(F.cosine_similarity(unit, sums[labels] - unit))
    alone = given.bincount()[given] == 1
    return (1 - torch.cat(cosines)).masked_fill(alone, torch.nan)


def agreement(features: Tensor, labellings: tuple[Tensor, ...], neighbours: int) -> tuple[Tensor, ...]:
    """For each labelling (N), the share (N, float64, 0..1) of an image's nearest neighbours that have its label.

    Neighbours are the `neighbours` (1..N-1) other images with the largest cosine.  Where several are equally near and
    not all of them have a place, they share the places that are left: no order decides.
    """
    unit = F.normalize(features.float())
    images = torch.arange(len(unit), device=unit.device)
    shares: tuple[list[Tensor], ...] = tuple([] for _ in labellings)
    for rows in images.split(max(1, SIMILARITIES // len(unit))):
        cosine = unit[rows] @ unit.T  # n x N
        cosine[rows - rows[0], rows] = -torch.inf  # not one's own neighbour
        values, nearest = cosine.topk(neighbours + 1)
        last = values[:, -2]
        tied = last == values[:, -1]
        for labels, column in zip(labellings, shares, strict=True):
            share = (labels[nearest[:, :-1]] == labels[rows, None]).double().mean(1)
            share[tied] = _share_among_tied(
                cosine[tied], last[tied, None], labels[rows[tied], None] == labels, neighbours
            )
            column.append(share)
    return tuple(torch.cat(column) for column in shares)


def _share_among_tied(cosine: Tensor, last: Tensor, same: Tensor, neighbours: int) -> Tensor:
    """The share (n) where the cosine of the last place (n x 1) occurs again; `same` (n x N) marks equal labels."""
    nearer, level = cosine > last, cosine == last
    places = (neighbours - nearer.sum(1)).double() / level.sum(1)  # of each of those that are level
    return ((nearer & same).sum(1) + places * (level & same).sum(1)) / neighbours


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
