"""How well features separate wrongly labelled images from the others: numbers for what RMDNet's figs. 5-7 show."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

NEIGHBOURS = 10  # few, as in SimiFeat, which checks labels against those of nearest neighbours (arXiv:2110.06283)
SIMILARITIES = 2**24  # cosines in memory at a time, 64 MiB: all N x N would take 10 GB for CIFAR


@dataclass(frozen=True)
class Separation:
    """How well N features separate mislabelled images from clean images.  A measure without images to measure is None.

    images, mislabelled: the number of all images, and of images whose given label is not their true label.
    auroc: 0..1, area under the ROC curve of "mislabelled" by the distance to the given class (`distances`): the share
        of pairs (mislabelled, clean) in which the mislabelled image is farther from its given class.  0.5 is chance.
    neighbours: k, the number of nearest neighbours of the following shares.
    given_clean, given_mislabelled: 0..1, mean share of an image's k nearest neighbours that have the image's given
        label, over clean and over mislabelled images.
    true_clean, true_mislabelled: 0..1, the same for true labels.  Features trained without the labels have equal
        shares up to chance; features trained to fit wrong labels have a smaller share over mislabelled images.
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
    """Measure how well features N x D (floating, any device) separate images by whether their given label is true.

    given, true: labels, N int64 >= 0 on the same device.  The true label of open-set images is -1; they count as one
    class.  neighbours: k >= 1; with N <= k, k is N - 1.  Raises ValueError for fewer than two images.
    """
    if len(features) < 2:
        raise ValueError(f"{len(features)} images have no neighbours, two at least are needed")
    neighbours = min(neighbours, len(features) - 1)
    wrong = given != true
    distance = distances(features, given)
    measured = ~distance.isnan()
    found = wrong[measured].unique()  # an AUROC needs both, wrong and clean labels
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
    """Cosine distance of each image to the centre of its given class: N float64 in 0..2, NaN for an image alone in it.

    The cosine compares directions, as RMDNet's relations and nearest neighbours do; lengths differ between images and
    networks for reasons other than labels (contrast, weight decay).  The centre is the mean of the unit features of the
    class's *other* images.  A centre with the image itself would lie near every image of a small class, so that
    distances could not be compared between classes of different sizes.
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
    """The share of each image's nearest neighbours that have the image's label: N float64 in 0..1 for each labelling.

    labellings: N labels each.  The neighbours of an image are the `neighbours` (1..N-1) other images with the largest
    cosine.  Where more images are equally near than places are left among the neighbours, these images share the places
    evenly, so that their order has no effect.
    """
    unit = F.normalize(features.float())
    images = torch.arange(len(unit), device=unit.device)
    shares: tuple[list[Tensor], ...] = tuple([] for _ in labellings)
    for rows in images.split(max(1, SIMILARITIES // len(unit))):
        cosine = unit[rows] @ unit.T  # n x N
        cosine[rows - rows[0], rows] = -torch.inf  # no image is its own neighbour
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
    """The shares of `agreement` for n images for whose last place several neighbours are equally near: n float64.

    cosine: n x N.  last: n x 1, the cosine of the last place.  same: n x N, true where labels are equal.
    """
    nearer, level = cosine > last, cosine == last
    places = (neighbours - nearer.sum(1)).double() / level.sum(1)  # for each image at the last place's cosine
    return ((nearer & same).sum(1) + places * (level & same).sum(1)) / neighbours


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if len(values) else None
