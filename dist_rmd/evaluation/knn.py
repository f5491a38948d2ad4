"""Weighted nearest-neighbour accuracy of an encoder (Wu et al. 2018, https://arxiv.org/abs/1805.01978, sec. 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_rmd.distributed.collectives import all_reduce_sum
from dist_rmd.evaluation._features import extract, extract_all
from dist_rmd.evaluation._splits import Splits

__all__ = ["knn"]

NEIGHBOURS, TEMPERATURE = 200, 0.1


@torch.inference_mode()
def knn(net: nn.Module, splits: Splits) -> dict[str, float]:
    """{"test/knn_top1": percent}: test images classified by the training images next to them, on correct labels.

    Where those of the training images are not known, the given ones vote, and the name is test/knn_top1_unverified: it
    says less of the encoder, the more of them are wrong.  `net.encoder` maps images to features N x D.  Called on every
    rank.  200 neighbours as is usual for CIFAR, sqrt(N) for fewer than 40,000 training images.
    """
    encoder = net.get_submodule("encoder")
    bank, labels, _ = extract_all(encoder, splits.train())
    queries, truth, _ = extract(encoder, splits.test())
    neighbours = min(NEIGHBOURS, round(len(bank) ** 0.5))
    predicted = vote(F.normalize(queries), F.normalize(bank), labels, splits.classes, neighbours)
    counts = torch.stack([(predicted == truth).sum(), torch.tensor(len(truth), device=truth.device)])
    correct, images = all_reduce_sum(counts).tolist()
    return {splits.measured("knn_top1", train=True): 100 * correct / images}


def vote(queries: Tensor, bank: Tensor, labels: Tensor, classes: int, neighbours: int) -> Tensor:
    """Class (n) of n unit rows by the `neighbours` nearest of the N unit rows of `bank`, weighted exp(cosine / 0.1)."""
    predicted = []
    for chunk in queries.split(1024):  # a full n x N matrix would not fit for large sets
        similarity, nearest = (chunk @ bank.T).topk(neighbours, dim=1)
        weights = (similarity / TEMPERATURE).exp()
        votes = torch.zeros(len(chunk), classes, device=chunk.device).scatter_add_(1, labels[nearest], weights)
        predicted.append(votes.argmax(dim=1))
    return torch.cat(predicted)
