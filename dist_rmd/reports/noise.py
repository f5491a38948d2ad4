"""The label noise of a run: realised noise rates, and the transition matrix from true to given labels."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from dist_rmd.data.labels.view import LabelView
from dist_rmd.errors import DataError
from dist_rmd.files import write_atomically
from dist_rmd.run.finished import FinishedRun
from dist_rmd.text.escapes import markdown, prepare_drawing, visible

__all__ = ["noise"]

OPEN_SET = "open set"  # the row of open-set images
MOST_NUMBERS = 20  # most classes for which every cell has room for a number
MOST_NAMES = 100  # most classes for which every name has room; with more classes the picture does not grow
LONGEST = 30  # most letters of a name


def noise(runs: Sequence[Path]) -> str:
    """Realised noise rates per class, and a picture of the transition matrix from true to given labels.

    Writes <run>/figures/noise.png and the same to TensorBoard; returns tables and paths.
    """
    pages = []
    for folder in runs:
        run = FinishedRun(folder)
        classes = run.dataset().classes
        if run.labels.true is None:
            raise DataError(f"{folder}: the true labels are not known, so neither are the noise rates")
        path = run.figures / "noise.png"
        figure = draw(run.labels, classes)
        write_atomically(path, functools.partial(figure.savefig, format="png"))  # once: drawing takes seconds
        with SummaryWriter(str(run.folder.board("figures"))) as board, Image.open(path) as picture:
            board.add_image("figures/noise", np.asarray(picture.convert("RGB")), dataformats="HWC")
        pages.append(f"{_table(folder, run.labels, classes)}\n{path}")
    return "\n\n".join(pages)


def draw(labels: LabelView, classes: Sequence[str]) -> Figure:
    """Draw the transition matrix: a row for each true class, with the percentages of its given labels by class.

    Open-set images have a last row.  Of more than MOST_NAMES classes, every second or third or so is named.
    """
    percent = _percent(labels)
    count = len(classes)
    rows = [visible(name) for name in _rows(labels, classes)]
    prepare_drawing([*rows, _origin(labels.origin)])
    has_numbers = count <= MOST_NUMBERS
    side = max(5.0, 3.0 + 0.36 * count) if has_numbers else 3.0 + 0.12 * min(count, MOST_NAMES)
    figure, axis = plt.subplots(figsize=(side + 0.8, side), dpi=150)
    # Noise over many classes puts a percent or less into a cell: the square root makes such cells visible.
    image = axis.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    size = 9 if has_numbers else 6
    every = -(-count // MOST_NAMES)
    named = [*range(0, count, every), *range(count, len(rows))]
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in rows]
    axis.set_xticks(range(0, count, every), names[:count:every], rotation=90, fontsize=size)
    axis.set_yticks(named, [names[row] for row in named], fontsize=size)
    axis.tick_params(length=2)
    if has_numbers:
        for (row, column), value in np.ndenumerate(percent):
            colour = "white" if value > 45 else "black"
            axis.text(column, row, _number(value), ha="center", va="center", fontsize=8, color=colour)
    else:
        for edge in range(10 * every, count, 10 * every):  # lines that lead the eye from a name to a cell
            axis.axhline(edge - 0.5, color="0.8", linewidth=0.5)
            axis.axvline(edge - 0.5, color="0.8", linewidth=0.5)
    if len(rows) > count:
        axis.axhline(count - 0.5, color="black", linewidth=0.8)
    axis.set_xlabel("given label")
    axis.set_ylabel("true class")
    rate = f"{100 * (labels.noise_rate or 0):.1f} % of {len(labels):,} labels wrong"
    axis.set_title("\n".join([_origin(labels.origin), rate, *_by_type(labels, 1)]))
    figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03, ticks=[0, 1, 5, 10, 20, 40, 60, 80, 100], format="%g %%")
    figure.tight_layout()
    plt.close(figure)
    return figure


def _table(folder: Path, labels: LabelView, classes: Sequence[str]) -> str:
    counts, percent = labels.transitions, _percent(labels)
    assert counts is not None  # the true labels are known
    rate = f"{100 * (labels.noise_rate or 0):.2f} % of {len(labels)} labels are wrong"
    lines = [
        f"{visible(str(folder))}: {'; '.join([_origin(labels.origin), rate, *_by_type(labels, 2)])}",
        "",
        "| true class | images | wrong | most often given as |",
        "|---|---|---|---|",
    ]
    for label, (name, row) in enumerate(zip(_rows(labels, classes), counts, strict=True)):
        others = np.where(np.arange(len(classes)) == label, 0, row)
        wrong, worst = others.sum(), int(others.argmax())
        most = f"{markdown(classes[worst])} ({percent[label, worst]:.2f} %)" if wrong else "-"
        lines.append(f"| {markdown(name)} | {row.sum()} | {100 * wrong / max(1, row.sum()):.2f} % | {most} |")
    return "\n".join(lines)


def _rows(labels: LabelView, classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the rows of the transition matrix."""
    counts = labels.counts
    assert counts is not None  # the true labels are known
    return (*classes, OPEN_SET) if counts["open"] else tuple(classes)


def _by_type(labels: LabelView, digits: int) -> list[str]:
    """Shares of closed-set and open-set noise among all labels, in a few words; empty without open-set images."""
    counts = labels.counts
    assert counts is not None  # the true labels are known
    closed, opened = (f"{100 * counts[kind] / max(1, len(labels)):.{digits}f} %" for kind in ("closed", "open"))
    return [f"{closed} closed set, {opened} open set"] if counts["open"] else []


def _percent(labels: LabelView) -> NDArray[np.float64]:
    """The transition counts in percent of their row; 0 in the rows of classes without images."""
    counts = labels.transitions
    assert counts is not None  # the true labels are known
    return 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))


def _number(percent: float) -> str:
    """The text of a cell, kept short: empty for 0, without a fraction from 10 on."""
    return "" if percent == 0 else f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}"


def _origin(origin: Mapping[str, Any]) -> str:
    """How the labels were made, in a few words."""
    if not origin:
        return "labels of unrecorded origin"
    if origin["kind"] == "file":
        column = f", column {origin['column']}" if origin["column"] else ""
        return f"{origin['file']}{column}"
    if origin["kind"] == "openset":
        included = ", true class included" if origin["include_true"] else ""
        kept = ", labels of the replaced images" if origin["keep_label"] else ""
        return f"openset, rho1 = {origin['rho1']:g}, rho2 = {origin['rho2']:g}{included}{kept}, seed {origin['seed']}"
    drawn = "" if origin["exact"] else ", each label by itself"
    included = ", true class included" if origin.get("include_true") else ""
    return f"{origin['kind']} {origin['rate']:g}{drawn}{included}, seed {origin['seed']}"
