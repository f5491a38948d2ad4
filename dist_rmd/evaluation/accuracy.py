"""Top-1 accuracy, each image counted once on any number of ranks."""

from typing import Any

import torch
from torch import nn

from dist_rmd.collectives import all_reduce_sum
from dist_rmd.evaluation.splits import Splits

__all__ = ["accuracy"]


@torch.inference_mode()
def accuracy(net: nn.Module, splits: Splits) -> dict[str, float]:
    """{"test/top1": percent} of a classifier, images -> (logits N x C, ...), in evaluation mode; on every rank."""
    return {"test/top1": top1(net, splits.test())}


def top1(net: nn.Module, loader: Any) -> float:
    """Percent of all ranks' images whose largest logit is their label."""
    counts = torch.zeros(2, dtype=torch.int64, device=next(net.parameters()).device)
    for batch in loader.epoch(0):
        (view,) = batch.views
        predicted = net(view)[0].argmax(dim=1)
        counts += torch.stack([(predicted == batch.labels).sum(), torch.tensor(len(view), device=counts.device)])
    correct, images = all_reduce_sum(counts).tolist()
    return 100 * correct / images
