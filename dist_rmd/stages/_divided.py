"""Selects the sets that stage `division` has formed, for the stages that learn from divided images."""

from collections.abc import Mapping
from typing import Any

import torch

from dist_rmd.data.labels.view import LabelView
from dist_rmd.distill.division import OPEN
from dist_rmd.errors import DataError


def divided(labels: LabelView, division: Mapping[str, Any]) -> tuple[LabelView, LabelView]:
    """Split `labels` into (the clean and the closed set, under the division's labels; the open set).

    Images keep their indices.  Raises DataError if the division is of other images or leaves no labelled image.
    """
    kept = torch.isin(division["indices"], torch.from_numpy(labels.indices))
    if not kept.all() or len(kept) != len(labels):
        raise DataError("the division is of other images than this run's: divide these (stages=[..., division, ...])")
    rows, is_open = labels.rows_of(division["indices"].numpy()), (division["sets"] == OPEN).numpy()
    opened = labels.part(rows[is_open], division["given"].numpy()[is_open])
    labelled = labels.part(rows[~is_open], division["labels"].numpy()[~is_open])
    if not len(labelled):
        raise DataError(
            "the division has put all images into the open set, so there is none to learn a class from: look at "
            "`python -m dist_rmd.report division` and at division.evidence, division.scaling and the thresholds"
        )
    return labelled, opened
