"""Probabilities of classes for many images, in less memory than images x classes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ALL = 10**8  # images x classes up to which all probabilities are kept: 400 MB
MOST = 64  # classes of an image that are kept one by one where there are more
BLOCK = 4096  # images whose probabilities of all classes are in memory at a time
GATHERED = 2**22  # numbers of voters in memory at a time, with the classes that they belong to: 48 MiB


@dataclass(frozen=True)
class Probabilities:
    """Probabilities of C classes for N images: that of class c for image i is s(i, c) + rest[i] usual[c].

    s is sparse: it has a number for M classes of each image, and 0 for all others.  These M classes have exactly their
    probabilities; the other classes share what is left in the proportions `usual`.  With M = C nothing is left.

    sparse: N x M float32, the numbers of s.
    classes: N x M int32, the classes that they belong to; None where they are those of all C classes, in order.
    rest: N float32.
    usual: C float32, positive, of sum 1.
    """

    sparse: Tensor
    classes: Tensor | None
    rest: Tensor
    usual: Tensor

    @classmethod
    def whole(cls, probabilities: Tensor) -> "Probabilities":
        """All of N x C probabilities (float32), without a copy."""
        count, classes = probabilities.shape
        usual = probabilities.new_full((classes,), 1 / classes)
        return cls(probabilities, None, probabilities.new_zeros(count), usual)

    @classmethod
    def certain(cls, labels: Tensor, classes: int) -> "Probabilities":
        """The probability of each of N labels (int64) is 1."""
        ones = torch.ones(len(labels), 1, device=labels.device)
        usual = ones.new_full((classes,), 1 / classes)
        return cls(ones, labels[:, None].int(), ones.new_zeros(len(labels)), usual)

    @classmethod
    def kept(cls, blocks: Iterable[Tensor], given: Tensor, classes: int) -> "Probabilities":
        """What is worth keeping of N x C probabilities, which come in blocks of rows (float32).

        That is everything where N C is at most ALL, else of each image the given label (N int64) and the MOST - 1 most
        probable other classes; the rest is spread as given labels are.
        """
        count = len(given)
        usual = ((given.bincount(minlength=classes).double() + 1) / (count + classes)).float()
        everything = count * classes <= ALL or classes <= MOST
        width = classes if everything else MOST
        sparse = torch.empty(count, width, device=given.device)
        which = None if everything else torch.empty(count, width, dtype=torch.int32, device=given.device)
        rest = torch.zeros(count, device=given.device)
        start = 0
        for block in blocks:
            rows = slice(start, start + len(block))
            start = rows.stop
            if which is None:
                sparse[rows] = block
                continue
            chosen = block.scatter(1, given[rows, None], torch.inf).topk(width, dim=1).indices
            values, share = block.gather(1, chosen), usual[chosen]
            rest[rows] = ((1 - values.sum(dim=1)) / (1 - share.sum(dim=1))).clamp(min=0)
            sparse[rows] = values - rest[rows, None] * share
            which[rows] = chosen.int()
        return cls(sparse, which, rest, usual)

    @classmethod
    def loaded(cls, arrays: Mapping[str, NDArray[np.generic]]) -> "Probabilities":
        """What `arrays` has returned.  Raises KeyError where a part is missing."""
        values = torch.from_numpy(arrays["probabilities"].astype(np.float32))
        if "classes" not in arrays:
            return cls.whole(values)
        classes, rest, usual = (torch.from_numpy(arrays[name]) for name in ("classes", "rest", "usual"))
        return cls(values - rest[:, None] * usual[classes], classes, rest, usual)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """probabilities: N x C; or, of N x M classes alone, whose numbers are in `classes`, with `rest` and `usual`."""
        if self.classes is None:
            return {"probabilities": self.sparse.cpu().numpy()}
        values = self.sparse + self.rest[:, None] * self.usual[self.classes]
        parts = {"probabilities": values, "classes": self.classes, "rest": self.rest, "usual": self.usual}
        return {name: part.cpu().numpy() for name, part in parts.items()}

    def __len__(self) -> int:
        return len(self.sparse)

    def __getitem__(self, rows: slice | Tensor) -> "Probabilities":
        """Those of some images."""
        classes = None if self.classes is None else self.classes[rows]
        return Probabilities(self.sparse[rows], classes, self.rest[rows], self.usual)

    def to(self, device: torch.device) -> "Probabilities":
        classes = None if self.classes is None else self.classes.to(device)
        return Probabilities(self.sparse.to(device), classes, self.rest.to(device), self.usual.to(device))

    def dense(self) -> Tensor:
        """N x C float32."""
        if self.classes is None:
            return self.sparse
        return (self.rest[:, None] * self.usual).scatter_add_(1, self.classes.long(), self.sparse).clamp_(min=0)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, probabilities of all classes: n x C) of all images, at most BLOCK at a time."""
        for rows in blocks(len(self)):
            yield rows, self[rows].dense()

    def of(self, labels: Tensor) -> Tensor:
        """The probability of each image's label in `labels` (N int64): N float32."""
        if self.classes is None:
            return self.sparse.gather(1, labels[:, None])[:, 0]
        own = torch.where(self.classes == labels[:, None], self.sparse, 0).sum(dim=1)
        return (own + self.rest * self.usual[labels]).clamp_(min=0)

    def probable(self, other_than: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The most probable class of each image, N int64, and its probability, N float32.

        other_than: N int64, a class of each image that does not count.
        """
        found = []
        for rows in blocks(len(self)):
            values, classes = self.sparse[rows], self.classes
            if classes is not None:
                values = values + self.rest[rows, None] * self.usual[classes[rows].long()]
            if other_than is not None:
                here = other_than[rows, None]
                values = values.scatter(1, here, -1) if classes is None else values.where(classes[rows] != here, -1)
            most, place = values.max(dim=1)
            which = place if classes is None else classes[rows].gather(1, place[:, None])[:, 0].long()
            found.append((which, most))
        which, most = (torch.cat(column) for column in zip(*found, strict=True))
        return which, most

    def mean(self) -> Tensor:
        """The mean of all images: C float32."""
        if self.classes is None:
            return self.sparse.mean(dim=0)
        sums = torch.zeros(len(self.usual), dtype=torch.float64, device=self.usual.device)
        for rows in blocks(len(self)):
            sums.index_add_(0, self.classes[rows].flatten(), self.sparse[rows].flatten().double())
        return ((sums + self.rest.double().sum() * self.usual) / len(self)).float()

    def votes(self, voters: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums over voters: n x C float32.

        voters: n x k integers, images.  weights: n x k float32.
        """
        if self.classes is None:
            return F.embedding_bag(voters, self.sparse, per_sample_weights=weights, mode="sum")
        result = (weights * self.rest[voters]).sum(dim=1, keepdim=True) * self.usual
        shape, width = voters.shape, self.sparse.shape[1]
        size = max(1, GATHERED // (shape[1] * width))
        for start in range(0, len(voters), size):
            some = voters[start : start + size].flatten()
            heard = self.sparse.index_select(0, some).view(-1, shape[1], width)
            heard *= weights[start : start + size, :, None]
            classes = self.classes.index_select(0, some).view(len(heard), -1).long()
            result[start : start + size].scatter_add_(1, classes, heard.flatten(1))
        return result

    def judged(self, given: Tensor, given_as: Tensor) -> Iterator[Tensor]:
        """Posterior probabilities of the classes, given the labels (N int64), in blocks: n x C.

        given_as: C x C, probabilities of labels (columns) by class (rows).
        """
        by_label = given_as.to(self.sparse.dtype).T.contiguous()
        for rows, prior in self.blocks():
            yield F.normalize(prior * by_label[given[rows]], p=1, dim=1)

    def joint(self, groups: Sequence[Tensor], given_as: Tensor) -> Tensor:
        """How many images have each class (row) and given label (column), by the posterior of `judged`: C x C float64.

        groups: the images with each given label, by `grouped`.

        The posterior of image i is s(i, c) + rest[i] usual[c], times given_as[c, label], over the sum of this over c.
        """
        by_label = given_as.to(self.sparse.dtype).T.contiguous()
        usually = by_label @ self.usual
        counts = torch.zeros_like(by_label, dtype=torch.float64)  # labels x classes
        for likely, usual, count, images in zip(by_label, usually, counts, groups, strict=True):
            for rows in images.split(BLOCK):
                sparse, rest = self.sparse[rows], self.rest[rows]
                if self.classes is None:
                    count += (1 / (sparse @ likely)) @ sparse
                    continue
                classes = self.classes[rows]
                total = (sparse * likely[classes]).sum(dim=1) + rest * usual
                count.index_add_(0, classes.flatten(), (sparse / total[:, None]).double().flatten())
                count += (rest / total).sum() * self.usual
        return given_as * counts.T


def grouped(given: Tensor, classes: int) -> Sequence[Tensor]:
    """The images with each of the labels 0..classes-1, n int64 each; given: N int64."""
    return given.argsort(stable=True).split(given.bincount(minlength=classes).tolist())


def blocks(count: int) -> Iterator[slice]:
    """All of `count` images, at most BLOCK at a time."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))
