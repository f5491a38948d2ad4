"""Which images a training uses and under which labels: a small overlay over a prepared dataset, so that every noise
setting shares one beton."""

import hashlib
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dist_rmd.data.noise import corrupt
from dist_rmd.errors import DataError
from dist_rmd.files import write_atomically


@dataclass(frozen=True, eq=False)
class LabelView:
    """M images and their labels.  The arrays are converted to int64 and must not be written to.

    indices: M distinct positions in the beton.
    given: M labels that the training sees, in 0..num_classes-1.
    true: M correct labels where they are known, else None.  Only measurements may look at them.

    Raises ValueError when the arrays contradict this.
    """

    indices: NDArray[np.int64]
    given: NDArray[np.int64]
    true: NDArray[np.int64] | None
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("indices", "given", "true"):
            values = getattr(self, name)
            if values is None and name == "true":
                continue
            values = _integers(name, values)
            if len(values) != len(self.indices):
                raise ValueError(f"{len(values)} {name} labels for {len(self.indices)} indices")
            if name != "indices" and values.size and not 0 <= values.min() <= values.max() < self.num_classes:
                raise ValueError(
                    f"{name} labels are {values.min()}..{values.max()}, which is outside 0..{self.num_classes - 1}"
                )
            object.__setattr__(self, name, values)
        if self.indices.size and self.indices.min() < 0:
            raise ValueError(f"index {self.indices.min()} is negative")
        if len(np.unique(self.indices)) != len(self.indices):
            raise ValueError("an index occurs twice")

    @classmethod
    def of(cls, labels: ArrayLike, num_classes: int) -> "LabelView":
        """All images under their correct labels."""
        labels = np.asarray(labels)
        return cls(np.arange(len(labels)), labels, labels, num_classes)

    def clean(self) -> "LabelView":
        """The same images under their correct labels.  Raises ValueError where these are unknown."""
        if self.true is None:
            raise ValueError("the correct labels are unknown")
        return LabelView(self.indices, self.true, self.true, self.num_classes)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def noise_rate(self) -> float | None:
        """Fraction of the given labels that are wrong, None where the correct ones are unknown (or there are none)."""
        return float(np.mean(self.given != self.true)) if self.true is not None and len(self) else None

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 over the arrays and the number of classes."""
        known = self.true is not None
        digest = hashlib.sha256(f"{len(self)} {self.num_classes} {known}".encode())
        for values in (self.indices, self.given, self.true):
            digest.update(b"" if values is None else values.astype("<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write an .npz that `load` and `given_view` read.  Raises CannotCreate, WriteFailed."""
        known: dict[str, Any] = {} if self.true is None else {"true": self.true}
        arrays = {"indices": self.indices, "given": self.given, "num_classes": np.int64(self.num_classes), **known}
        write_atomically(Path(path), lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, path: Path) -> "LabelView":
        """Read what `save` wrote.  Raises DataError."""
        content = _load(path)
        if not isinstance(content, dict):
            raise DataError(f"{path}: a plain array, not the labels of a run (.npz with indices, given, num_classes)")
        try:
            return cls(content["indices"], content["given"], content.get("true"), int(content["num_classes"]))
        except KeyError as error:
            raise DataError(f"{path}: no array {error}, so not the labels of a run") from None
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: {error}") from None


def noisy_view(
    true_labels: ArrayLike, num_classes: int, kind: str, rate: float, seed: int, per_class: int | None = None
) -> LabelView:
    """The first `per_class` images of every class (all when None) under labels corrupted by `noise.corrupt`.

    A class with fewer images than `per_class` gives all it has.  Raises ValueError for values outside their range.
    """
    true = _integers("true", true_labels)
    indices = _first(true, per_class)
    return LabelView(indices, corrupt(true[indices], kind, rate, num_classes, seed), true[indices], num_classes)


def given_view(true_labels: ArrayLike, num_classes: int, file: Path, per_class: int | None = None) -> LabelView:
    """The first `per_class` images of every true class (all when None) under the labels that the user's `file` gives.

    file: an .npy with one integer in 0..num_classes-1 per image of the dataset, in the dataset's order; or an .npz that
    `LabelView.save` wrote for the same dataset, whose images are then the only ones.

    Raises DataError, which names the file, when it is unreadable or does not fit the dataset.
    """
    true = _integers("true", true_labels)
    content = _load(file)
    try:
        if isinstance(content, dict):
            indices, given = _of_this_dataset(LabelView.load(file), true, num_classes)
        else:
            indices, given = np.arange(len(true)), _integers("given", content)
            if len(given) != len(true):
                raise ValueError(f"{len(given)} labels, but the dataset has {len(true)} images")
        chosen = _first(true[indices], per_class)
        return LabelView(indices[chosen], given[chosen], true[indices[chosen]], num_classes)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from None


def _of_this_dataset(
    view: LabelView, true: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if view.num_classes != num_classes:
        raise ValueError(f"made for {view.num_classes} classes, but the dataset has {num_classes}")
    if len(view) and view.indices.max() >= len(true):
        raise ValueError(f"names image {view.indices.max()}, but the dataset has {len(true)} images")
    if view.true is not None and not np.array_equal(view.true, true[view.indices]):
        raise ValueError("its true labels are not those of the dataset, so it was made for another one")
    return view.indices, view.given


def _first(labels: NDArray[np.int64], per_class: int | None) -> NDArray[np.int64]:
    """Ascending positions of the first `per_class` entries of every label."""
    if per_class is None:
        return np.arange(len(labels))
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}, but must be at least 1")
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(ranked, ranked)  # place of each entry within its class
    return np.sort(order[rank < per_class])


def _integers(name: str, values: Any) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a list of integers, not {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, np.int64)


def _load(path: Path) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """One array of an .npy, all arrays of an .npz.  Never unpickles, so nothing inside the file is run."""
    try:
        content = np.load(path, allow_pickle=False)
        return dict(content) if isinstance(content, np.lib.npyio.NpzFile) else content
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable .npy or .npz of numbers ({reason})") from None
