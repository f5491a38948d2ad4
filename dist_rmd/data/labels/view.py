"""`LabelView`: the images of a run and their noisy labels.

A view is a small overlay over a prepared dataset, so all noise settings share one .beton file.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dist_rmd.data.labels.noise import OPEN, corrupt, openset, transitions
from dist_rmd.errors import DataError
from dist_rmd.files import write_atomically

TYPES = ("clean", "closed", "open")
"""types of given labels: right; wrong; on an open-set image"""

HOLD_OUT = 0x6F7574  # keeps this draw apart from that of the noise, which may have the same seed


@dataclass(frozen=True, eq=False)
class LabelView:
    """M images and their labels.  The arrays are converted to int64 and must not be written to.

    indices: M distinct positions in the .beton file.
    given: M labels that the training sees, in 0..num_classes-1.
    true: M correct labels if they are known, else None; OPEN (-1) for an open-set image, which shows none of the
        classes.  Only measurements may use them.
    origin: how the given labels were made, as plain JSON values; empty if unknown.
    rows: M numbers of the images in the view that this view is a `part` of; 0..M-1 in any other view.

    Raises ValueError when the arrays contradict this.

    >>> from dist_rmd import LabelView
    >>> labels = LabelView(indices=[4, 7, 8], given=[0, 1, 1], true=[0, 1, 0], num_classes=2)
    >>> labels.counts
    {'clean': 2, 'closed': 1, 'open': 0}
    >>> labels.clean().given
    array([0, 1, 0])
    >>> labels.save("labels.npz")  # train with noise.kind=file noise.file=labels.npz
    >>> LabelView.load("labels.npz").transitions
    array([[1, 1],
           [0, 1]])
    """

    indices: NDArray[np.int64]
    given: NDArray[np.int64]
    true: NDArray[np.int64] | None
    num_classes: int
    origin: Mapping[str, Any] = field(default_factory=dict)
    rows: NDArray[np.int64] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(len(self.indices)))
        for name in ("indices", "given", "true", "rows"):
            values = getattr(self, name)
            if values is None and name == "true":
                continue
            values = integers(name, values)
            if len(values) != len(self.indices):
                raise ValueError(f"{len(values)} {name} labels for {len(self.indices)} indices")
            least, last = OPEN if name == "true" else 0, self.num_classes - 1
            if name in ("given", "true") and values.size and not least <= values.min() <= values.max() <= last:
                raise ValueError(f"{name} labels are {values.min()}..{values.max()}, which is outside {least}..{last}")
            object.__setattr__(self, name, values)
        if self.indices.size and self.indices.min() < 0:
            raise ValueError(f"index {self.indices.min()} is negative")
        if len(np.unique(self.indices)) != len(self.indices):
            raise ValueError("an index occurs twice")

    @classmethod
    def of(cls, labels: ArrayLike, num_classes: int, verified: bool = True) -> "LabelView":
        """All images under a dataset's own labels, without open-set images (label OPEN).

        verified: whether these labels are correct; otherwise the correct labels are unknown.
        """
        labels = np.asarray(labels)
        indices = np.flatnonzero(labels != OPEN)
        given = labels[indices]
        return cls(indices, given, given if verified else None, num_classes)

    def clean(self) -> "LabelView":
        """The same images under their correct labels, without open-set images, which have none.

        Raises ValueError when the correct labels are unknown.
        """
        if self.true is None:
            raise ValueError("the correct labels are unknown")
        rows = self.true != OPEN
        return LabelView(self.indices[rows], self.true[rows], self.true[rows], self.num_classes)

    def best_known(self) -> "LabelView":
        """The view under its correct labels (`clean`) if they are known, else the view itself."""
        return self if self.true is None else self.clean()

    def first(self, per_class: int | None, skip: int = 0) -> "LabelView":
        """Images number `skip` to `skip + per_class` of every class (all after `skip` when None), if there are as many.

        Classes are those of the correct labels if these are known.  Open-set images are not counted, and all stay.
        Raises ValueError for per_class below 1.
        """
        if per_class is None and not skip:
            return self
        classes = self.given if self.true is None else self.true
        return self._only(np.union1d(_first(classes, per_class, skip), np.flatnonzero(classes == OPEN)))

    def split(self, fraction: float, seed: int) -> tuple["LabelView", "LabelView"]:
        """Hold out round(fraction * n) of the n images of every given label.  Returns (the rest, the held-out part).

        fraction: in 0..1.  seed: of the random choice.  Both parts keep the order of the images.
        """
        generator = np.random.default_rng([seed, HOLD_OUT])
        held_out = np.zeros(len(self), bool)
        for label in range(self.num_classes):
            rows = np.flatnonzero(self.given == label)
            held_out[generator.permutation(rows)[: round(fraction * len(rows))]] = True
        return self._only(~held_out), self._only(held_out)

    def _only(self, chosen: NDArray[Any]) -> "LabelView":
        true = None if self.true is None else self.true[chosen]
        indices = self.indices[chosen]
        return replace(self, indices=indices, given=self.given[chosen], true=true, rows=np.arange(len(indices)))

    def part(self, rows: NDArray[np.int64], given: NDArray[np.int64] | None = None) -> "LabelView":
        """The images in some rows, in this order; they keep their numbers.  given: other labels for these images."""
        chosen = self._only(rows)
        return replace(chosen, rows=self.rows[rows], given=chosen.given if given is None else given)

    def rows_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each image, given by its position in the .beton file.  Raises KeyError for an unknown position."""
        row = np.full(max(self.indices.max(initial=-1), indices.max(initial=-1)) + 1, -1)
        row[self.indices] = np.arange(len(self))
        rows = row[indices]
        if (rows < 0).any():
            raise KeyError(f"image {indices[rows < 0][0]} is not in the view")
        return rows

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def noise_rate(self) -> float | None:
        """Fraction of wrong labels; None if the correct labels are unknown, or there are no labels.

        The label of an open-set image is always wrong.
        """
        return float(np.mean(self.given != self.true)) if self.true is not None and len(self) else None

    @property
    def types(self) -> NDArray[np.int64] | None:
        """Type of each label: 0 clean, 1 closed, 2 open (positions in TYPES).  None if correct labels are unknown."""
        if self.true is None:
            return None
        return np.where(self.true == OPEN, TYPES.index("open"), self.given != self.true)

    @property
    def counts(self) -> dict[str, int] | None:
        """Number of labels of each type, in the order of TYPES; None if the correct labels are unknown."""
        if self.types is None:
            return None
        return dict(zip(TYPES, np.bincount(self.types, minlength=len(TYPES)).tolist(), strict=True))

    @property
    def transitions(self) -> NDArray[np.int64] | None:
        """num_classes x num_classes: how many labels of true class (row) are given as which class (column).

        If there are open-set images, one more row, the last, counts them.
        """
        return None if self.true is None else transitions(self.true, self.given, self.num_classes)

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 over the arrays and the number of classes; the origin does not enter."""
        known = self.true is not None
        digest = hashlib.sha256(f"{len(self)} {self.num_classes} {known}".encode())
        for values in (self.indices, self.given, self.true):
            digest.update(b"" if values is None else values.astype("<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write an .npz that `load` reads, and numpy without pickle.  Raises CannotCreate, WriteFailed.

        indices, given, true (where known): as above.  num_classes: 0-d.  origin: JSON.  digest: text.
        transitions, counts (3 integers, in the order of TYPES), where the true labels are known: as above.
        """
        arrays: dict[str, Any] = {
            "indices": self.indices,
            "given": self.given,
            "num_classes": np.int64(self.num_classes),
            "origin": np.array(json.dumps(dict(self.origin))),
            "digest": np.array(self.digest),
        }
        if (counts := self.counts) is not None:
            arrays |= {"true": self.true, "transitions": self.transitions, "counts": np.array([*counts.values()])}
        write_atomically(Path(path), lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path: Path) -> "LabelView":
        """Read what `save` wrote.  Raises DataError, also when the labels were altered since."""
        content = read_arrays(path)
        if not isinstance(content, dict):
            raise DataError(f"{path}: a plain array, not the labels of a run (.npz with indices, given, num_classes)")
        try:
            origin = json.loads(str(content.get("origin", "{}")))
            count = int(content["num_classes"])
            view = cls(content["indices"], content["given"], content.get("true"), count, origin)
        except KeyError as error:
            raise DataError(f"{path}: no array {error}, so not the labels of a run") from None
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: {error}") from None
        if str(content.get("digest", view.digest)) != view.digest:
            raise DataError(f"{path}: altered since it was written, its labels do not have the digest that it records")
        return view


def noisy_view(
    true_labels: ArrayLike,
    num_classes: int,
    kind: str,
    rate: float,
    seed: int,
    per_class: int | None = None,
    class_map: Mapping[int, int] | None = None,
    exact: bool = True,
    include_true: bool = False,
    skip: int = 0,
) -> LabelView:
    """The first `per_class` images of every class (all when None) after `skip`, under labels of `noise.corrupt`.

    A class with fewer images gives all its images.  Raises ValueError for values outside their range.
    """
    clean = LabelView.of(true_labels, num_classes).first(per_class, skip)
    origin = {
        "kind": kind,
        "rate": rate,
        "seed": seed,
        "exact": exact,
        "include_true": include_true,
        "class_map": {str(source): target for source, target in class_map.items()} if class_map else None,
    }
    given = corrupt(clean.given, kind, rate, num_classes, seed, class_map, exact, include_true)
    return replace(clean, given=given, origin=origin)


def openset_view(
    true_labels: ArrayLike,
    num_classes: int,
    rho1: float,
    rho2: float,
    seed: int,
    per_class: int | None = None,
    include_true: bool = False,
    keep_label: bool = False,
    skip: int = 0,
) -> LabelView:
    """The first `per_class` images of every class (all when None) after `skip`, with the noise of `noise.openset`.

    An open-set image (label OPEN) takes the place of the image that it replaces, so that the number of images stays the
    same.  Raises ValueError for values outside their range, and where there are too few open-set images.
    """
    labels = np.asarray(true_labels)
    clean = LabelView.of(labels, num_classes).first(per_class, skip)
    pool = np.flatnonzero(labels == OPEN)
    given, taken = openset(clean.given, len(pool), rho1, rho2, num_classes, seed, include_true, keep_label)
    indices, true = clean.indices.copy(), clean.given.copy()
    opened = np.flatnonzero(taken >= 0)
    indices[opened], true[opened] = pool[taken[opened]], OPEN
    origin = {
        "kind": "openset",
        "rho1": rho1,
        "rho2": rho2,
        "seed": seed,
        "include_true": include_true,
        "keep_label": keep_label,
    }
    return LabelView(indices, given, true, num_classes, origin)


def _first(labels: NDArray[np.int64], per_class: int | None, skip: int) -> NDArray[np.int64]:
    """Ascending positions of the first `per_class` entries (all when None) of every label after `skip`."""
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class is {per_class}, but must be at least 1")
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ranked, ranked)  # place of each entry within its class
    return np.sort(order[(rank >= skip) & (rank < (len(labels) if per_class is None else skip + per_class))])


def integers(name: str, values: Any) -> NDArray[np.int64]:
    """`values`, a list of N integers called `name`, as N int64.  Raises ValueError for anything else."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a list of integers, not {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, np.int64)


def read_arrays(path: Path) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """The array of an .npy, all arrays of an .npz.  Raises DataError.  Nothing in the file is run."""
    try:
        content = np.load(path, allow_pickle=False)
        return dict(content) if isinstance(content, np.lib.npyio.NpzFile) else content
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable .npy or .npz of numbers ({reason})") from None
