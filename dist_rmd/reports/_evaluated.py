"""Draws a classifier's confusion matrix and the calibration of its confidence, for `dist-rmd evaluate`."""

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay
from torch.utils.tensorboard import SummaryWriter

from dist_rmd.evaluation._details import BINS, Details
from dist_rmd.files import write_atomically
from dist_rmd.run.finished import FinishedRun
from dist_rmd.text.escapes import prepare_drawing, visible

NAMED = 25
"""largest number of classes for which the confusion matrix has names, and numbers in its cells"""
LONGEST = 16
"""most letters of a class's name"""


def draw(run: FinishedRun, stage: str, when: str, classes: Sequence[str], found: Details) -> Path:
    """Draw the picture into the run's figures and into TensorBoard; returns its path.  Raises CannotCreate."""
    names = [visible(name)[:LONGEST] for name in classes]
    prepare_drawing(names)
    top1 = 100 * float(found.right.mean())
    figure = picture(names, found, f"{stage} ({when}): {top1:.2f} % of {len(found.right):,} test images")
    path = run.figures / run.folder.evaluation(stage).name
    write_atomically(path, functools.partial(figure.savefig, format="png"))
    with SummaryWriter(str(run.folder.board("figures"))) as board, Image.open(path) as drawn:
        board.add_image(f"figures/{path.stem}", np.asarray(drawn.convert("RGB")), dataformats="HWC")
    return path


def picture(names: Sequence[str], found: Details, title: str) -> Figure:
    """The confusion matrix in percent of each row's images, and the reliability diagram under a histogram."""
    size = max(5.0, 0.42 * min(len(names), NAMED))
    figure = Figure(figsize=(size + 6, size + 0.6), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2, width_ratios=[size, 5])
    shares = 100 * found.confusion / np.maximum(1, found.images)[:, None]
    few = len(names) <= NAMED
    shown = ConfusionMatrixDisplay(shares, display_labels=names if few else None)
    shown.plot(ax=left, cmap="Blues", include_values=few, values_format=".0f", xticks_rotation="vertical")
    left.set(xlabel="taken for", ylabel="correct class", title="% of a class's images")
    if not few:
        left.set(xticks=[], yticks=[])
    CalibrationDisplay.from_predictions(found.right, found.confidence, n_bins=BINS, ax=right, name="accuracy")
    bars = np.histogram(found.confidence, BINS, (0, 1))[0] / len(found.confidence)
    right.bar((np.arange(BINS) + 0.5) / BINS, bars, 0.9 / BINS, color="0.8", zorder=0, label="share of the images")
    right.set(xlabel="confidence", ylabel="", xlim=(0, 1), ylim=(0, 1), title=f"calibration error {found.ece:.2f} %")
    right.legend(loc="upper left")
    return figure
