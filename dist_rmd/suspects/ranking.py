"""The images of a run in order of suspicion, for the table, the page and the picture."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_rmd.text.escapes import spreadsheet

COLUMNS = ("file", "given", "proposed", "score", "p_given", "neighbours", "label", "set", "twins")


@dataclass(frozen=True)
class Ranking:
    """M images by falling suspicion; every column has M entries.

    classes: names of the C classes; given, proposed and probable are class numbers, int64.
    files: names of the images in the prepared dataset.
    given: the given labels.  proposed: the most probable class but the given.  probable: the most probable class.
    sure: whether the most probable class is the given label, or more probable than all other classes together.
    score: 0..1, how suspect the given label is.  p_given: 0..1, the given label's out-of-sample probability.
    neighbours: 0..1, share of the nearest neighbours that have the given label.
    sets: clean, closed or open, as a division found; empty without a division.
    twins: number of the image's group of pictures that are almost the same and have different labels, or -1.
    """

    classes: Sequence[str]
    files: Sequence[str]
    given: NDArray[np.int64]
    proposed: NDArray[np.int64]
    probable: NDArray[np.int64]
    sure: NDArray[np.bool_]
    score: NDArray[np.float64]
    p_given: NDArray[np.float64]
    neighbours: NDArray[np.float64]
    sets: Sequence[str]
    twins: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.files)

    def csv(self) -> str:
        """A table that noise.kind=file and `prepare --labels` read: its column label has the probable classes.

        Names that a spreadsheet could take for formulas have an apostrophe before them.
        """
        names = [spreadsheet(name) for name in self.classes]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        for row, file in enumerate(self.files):
            given, proposed, label = (names[column[row]] for column in (self.given, self.proposed, self.probable))
            numbers = [f"{column[row]:.4f}" for column in (self.score, self.p_given, self.neighbours)]
            twins = "" if self.twins[row] < 0 else str(self.twins[row])
            table.writerow([spreadsheet(file), given, proposed, *numbers, label, self.sets[row], twins])
        return text.getvalue()

    def cleaned(self) -> str:
        """A table like that of `csv`, with the columns file and label, of the images whose class is `sure`."""
        names = [spreadsheet(name) for name in self.classes]
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file", "label"])
        for row in np.flatnonzero(self.sure).tolist():
            table.writerow([spreadsheet(self.files[row]), names[self.probable[row]]])
        return text.getvalue()
