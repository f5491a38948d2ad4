"""Noisy labels from the user's own file: noise.kind=file."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.serialization import safe_globals

from dist_rmd.data.labels.table import read_label_table
from dist_rmd.data.labels.view import LabelView, integers, read_arrays
from dist_rmd.data.prepared.beton import Dataset
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.text.reader import read_text

PICKLES = (".pkl", ".pickle", ".p", ".joblib")

# All names that a pickle needs to make arrays of integers.  Files from before numpy 2 say numpy.core for numpy._core.
RECONSTRUCT = np.empty(0).__reduce__()[0]
SAFE: list[Any] = [
    (RECONSTRUCT, "numpy.core.multiarray._reconstruct"),
    (RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in np.typecodes["AllInteger"]),
]


def given_view(
    dataset: Dataset, file: Path, column: str | None = None, per_class: int | None = None, skip: int = 0
) -> LabelView:
    """The labels that `file` gives to the first `per_class` training images of every true class (all when None).

    file: an .npy or .json list with one class number per image, in the dataset's order; an .npz that `LabelView.save`
        wrote; a .csv, .tsv or .txt table with a column "file" (names as in the dataset's train.csv) and a column of
        class numbers or names; a .pt or .pth such as CIFAR-10N's, a dictionary of columns with one class number per
        image.  Images that an .npz or a table does not list are left out; rows of images that were held out of the
        training images are passed over.  The other forms hold no labels of open-set
        images, which are left out too.
    column: the column of labels in a table ("label" when None) or in a .pt.
    skip: the first `skip` images of every true class are left out.

    Raises DataError, which names the file and the place in the file, when the file is unreadable or does not fit the
    dataset; ConfigError when a .pt is given without a column, or a column with a file that has no columns.
    """
    kind = file.suffix.lower()
    if kind not in READERS:
        why = ", since a pickle can run code: save a list of them as .npy" if kind in PICKLES else ""
        raise DataError(
            f"{file}: labels are read from {', '.join(READERS)}, not from {kind or 'a file without suffix'}{why}"
        )
    try:
        return READERS[kind](dataset, file, column).first(per_class, skip)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())
        raise DataError(f"{file}: {reason}") from None


def _npy(dataset: Dataset, file: Path, column: str | None) -> LabelView:
    _refuse(column, file)
    return _whole(dataset, read_arrays(file), _origin(file, None))


def _npz(dataset: Dataset, file: Path, column: str | None) -> LabelView:
    _refuse(column, file)
    view, count, images = LabelView.load(file), len(dataset.classes), len(dataset.labels("train"))
    if view.num_classes != count:
        raise ValueError(f"made for {view.num_classes} classes, but the dataset has {count}")
    if len(view) and view.indices.max() >= images:
        raise ValueError(f"names image {view.indices.max()}, but the dataset has {images} images")
    true = _true(dataset, view.indices)
    if view.true is not None and true is not None and not np.array_equal(view.true, true):
        raise ValueError("its true labels are not those of the dataset, so it was made for another one")
    return LabelView(view.indices, view.given, true, count, view.origin or _origin(file, None))


def _csv(dataset: Dataset, file: Path, column: str | None) -> LabelView:
    column, place = column or "label", dataset.folder / "train.csv"
    files = dataset.files("train")
    held_out = dataset.files("test") if dataset.held_out else ()
    choice = " (noise.column chooses)"
    indices, labels = read_label_table(file, column, files, dataset.classes, place, choice, held_out)
    return LabelView(indices, labels, _true(dataset, indices), len(dataset.classes), _origin(file, column))


def _json(dataset: Dataset, file: Path, column: str | None) -> LabelView:
    _refuse(column, file)
    content = json.loads(read_text(file))
    if not isinstance(content, list):
        raise ValueError(f"holds a {type(content).__name__}, not a list with one class number for each image")
    return _whole(dataset, content, _origin(file, None))


def _pt(dataset: Dataset, file: Path, column: str | None) -> LabelView:
    columns = _read_pt(file)
    if column is None:
        raise ConfigError(f"noise.column: which column of {file}? It has {_listing(columns)}")
    _require(column, columns)
    # CIFAR-100N also has labels of the 20 coarse classes, which must not pass for labels of the first 20 fine classes.
    reference = "clean_coarse_label" if "coarse" in column else "clean_label"
    if reference in columns:
        clean = _whole_column(dataset, file, reference, columns[reference])
        if clean.noise_rate:
            first = int(np.flatnonzero(clean.given != clean.true)[0])
            raise ValueError(
                f"column {reference}: class {clean.given[first]} for image {first}, which is not its label in "
                f"{dataset.folder}, so it was made for other images, other classes or another order"
            )
    return _whole_column(dataset, file, column, columns[column])


READERS: Mapping[str, Callable[[Dataset, Path, str | None], LabelView]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _csv,
    ".json": _json,
    ".pt": _pt,
    ".pth": _pt,
}


def _read_pt(file: Path) -> dict[str, Any]:
    """Read the columns of a pickle that torch.save wrote.

    Only containers, numbers, tensors and arrays are made; a pickle that asks for anything else is refused.
    """
    try:
        with safe_globals(SAFE):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, BadZipFile ... for broken files
        raise ValueError(f"not readable as columns of numbers ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, not columns by name")
    return content


def _whole_column(dataset: Dataset, file: Path, column: str, values: Any) -> LabelView:
    try:
        return _whole(dataset, values, _origin(file, column))
    except (ValueError, TypeError, RuntimeError) as error:  # the latter two from odd tensors
        raise ValueError(f"column {column}: {error}") from None


def _whole(dataset: Dataset, values: Any, origin: Mapping[str, Any]) -> LabelView:
    """All training images but the open-set images under `values`, one label for each image in the dataset's order."""
    given = integers("given", values)
    own = LabelView.of(dataset.labels("train"), len(dataset.classes), dataset.verified)
    if len(given) != len(own):
        raise ValueError(f"{len(given)} labels, but the dataset has {len(own)} images")
    return replace(own, given=given, origin=origin)


def _true(dataset: Dataset, indices: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The correct labels of the training images at `indices`; None where nobody has verified the dataset's labels."""
    return dataset.labels("train")[indices] if dataset.verified else None


def _origin(file: Path, column: str | None) -> dict[str, Any]:
    return {"kind": "file", "file": file.name, "column": column}


def _refuse(column: str | None, file: Path) -> None:
    if column is not None:
        raise ConfigError(f"noise.column={column}: {file} holds one label per image and no columns, leave it out")


def _require(column: str, columns: Sequence[str] | Mapping[str, Any]) -> None:
    if column not in columns:
        raise ValueError(f"no column {column!r} (noise.column chooses), it has {_listing(columns)}")


def _listing(columns: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(str, columns)) or "none"
