"""Weighted nearest-neighbour accuracy of an encoder (Wu et al. 2018, https://arxiv.org/abs/1805.01978, sec. 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.distributed.collectives import all_reduce_sum
from dist_rmd.evaluation._features import extract, extract_all
from dist_rmd.evaluation._nearest import Bank
from dist_rmd.evaluation._splits import Splits

__all__ = ["knn"]

NEIGHBOURS, TEMPERATURE = 200, 0.1
CHUNK = 4096  # images whose votes for all classes are in memory at a time


@torch.inference_mode()
def knn(net: nn.Module, splits: Splits) -> dict[str, float]:
    """Classify the test images by the nearest training images' correct labels: {"test/knn_top1": percent}.

    Where the correct labels of the training images are unknown, their given labels vote, and the metric is named
    test/knn_top1_unverified: the more given labels are wrong, the less the metric says about the encoder.
    `net.encoder` maps images to features N x D.  Every rank must call this function.  The number of neighbours is 200,
    as is usual for CIFAR, and sqrt(N) for fewer than 40,000 training images.  Among more than 65,536 training images an
    image is compared with about 32,768 that are alike (see `_nearest.py`).
    """
    encoder = net.get_submodule("encoder")
    bank, labels, _ = extract_all(encoder, splits.train())
    queries, truth, _ = extract(encoder, splits.test())
    neighbours = min(NEIGHBOURS, round(len(bank) ** 0.5))
    predicted = vote(F.normalize(queries), Bank(F.normalize(bank)), labels, splits.classes, neighbours)
    counts = torch.stack([(predicted == truth).sum(), torch.tensor(len(truth), device=truth.device)])
    correct, images = all_reduce_sum(counts).tolist()
    return {splits.measured("knn_top1", train=True): 100 * correct / images}


def vote(queries: Tensor, bank: Bank, labels: Tensor, classes: int, neighbours: int) -> Tensor:
    """Predict the classes (n) of n unit rows by the vote of their nearest rows in `bank`, weighted exp(cosine / 0.1).

    queries: n x D.  bank: of N rows.  labels: N int64.  neighbours: number of rows that vote.
    """
    nearest, similarity = bank.of(queries, neighbours)
    weights = (similarity / TEMPERATURE).exp()
    parts = zip(labels[nearest].split(CHUNK), weights.split(CHUNK), strict=True)
    votes = (w.new_zeros(len(w), classes).scatter_add_(1, voted, w) for voted, w in parts)
    return torch.cat([of_some.argmax(dim=1) for of_some in votes])
