"""Top-1 accuracy, each image counted once on any number of ranks."""

import torch
from torch import Tensor, nn

from dist_rmd.distributed.collectives import all_reduce_sum
from dist_rmd.evaluation._splits import Images, Splits

__all__ = ["accuracy"]


@torch.inference_mode()
def accuracy(net: nn.Module, splits: Splits) -> dict[str, float]:
    """The top-1 accuracy of a classifier; every rank must call this function, and gets the same metrics.

    net: images -> (logits N x C, ...), in evaluation mode.

    val/top1, where images are held out: percent of the held-out images whose given label, right or wrong, is predicted.
    Then val/top1 is the score that chooses the best epoch, since test images must not choose.
    test/top1: percent; test/top1_unverified where the test images were held out of training images whose labels nobody
    has verified.
    test/predicted_classes: number of classes predicted for any test image; 1 means that the network has collapsed.
    """
    metrics = {}
    if splits.validation:
        taken, right = predictions(net, splits.validation(), splits.classes)
        metrics["val/top1"] = percent(right, taken)
    taken, right = predictions(net, splits.test(), splits.classes)
    metrics[splits.measured("top1")] = percent(right, taken)
    return metrics | {"test/predicted_classes": float(taken.count_nonzero())}


def predictions(net: nn.Module, loader: Images, classes: int) -> Tensor:
    """Count predictions by class over the images of all ranks: 2 x C int64, all predictions and the right ones."""
    counts = torch.zeros(2, classes, dtype=torch.int64, device=next(net.parameters()).device)
    for batch in loader.epoch(0):
        (view,) = batch.views
        predicted = net(view)[0].argmax(dim=1)
        right = predicted[predicted == batch.labels]
        counts += torch.stack([taken.bincount(minlength=classes) for taken in (predicted, right)])
    return all_reduce_sum(counts)


def percent(part: Tensor, whole: Tensor) -> float:
    return 100 * part.sum().item() / whole.sum().item()
