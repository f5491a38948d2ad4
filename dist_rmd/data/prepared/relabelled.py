"""A dataset under labels from a table (`prepare --labels`), such as the labels that `report suspects` proposes."""

from dataclasses import replace
from pathlib import Path

from dist_rmd.data.datasets.base import RawDataset, Split
from dist_rmd.data.labels.table import read_label_table
from dist_rmd.errors import DataError


def relabelled(source: RawDataset, table: Path) -> RawDataset:
    """`source` with only the training images that a table lists (column "file"), under the table's labels ("label").

    The test images stay as they are; the table may list those that were held out of the training images, without any
    effect.  The new labels count as not verified.  Raises DataError, which names the table
    and the place in it, where the table does not fit the images or leaves a class without images.
    """
    train, count = source.splits["train"], len(source.classes)
    held_out = source.splits["test"].files if source.held_out else ()
    place = f"the {source.name} images"
    try:
        rows, labels = read_label_table(table, "label", train.files, source.classes, place, held_out=held_out)
        if missing := sorted({*range(count)} - {*labels.tolist()}):
            raise ValueError(f"no image is left of class {source.classes[missing[0]]}")
    except ValueError as error:
        raise DataError(f"{table}: {error}") from None
    chosen = rows.tolist()
    kept = Split(labels, [train.files[row] for row in chosen], lambda i: train.read(chosen[i]))
    return replace(source, splits={**source.splits, "train": kept}, verified=False)
