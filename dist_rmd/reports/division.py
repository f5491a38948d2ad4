"""Compares a division into clean, closed-set and open-set images with the truth (MODUL figs. 3 and 5)."""

import itertools
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from dist_rmd.data.labels.noise import OPEN
from dist_rmd.distill.division import CLOSED, SETS, Mixture, quality
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.files import write_atomically
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun
from dist_rmd.stages.division import DivisionConfig
from dist_rmd.text.escapes import prepare_drawing, visible

__all__ = ["division"]

NAMES = ("clean", "closed set", "open set")
# Paul Tol's high contrast: three colours that stay apart for colour-blind readers and in grey.
COLOURS, UNKNOWN = ("#004488", "#BB5566", "#DDAA33"), "#777777"
EXAMPLES = 0x6578616D  # keeps the draw of examples apart from other draws of the same seed, such as the label noise
COLUMNS = 10  # examples in a row
CELL, IMAGE, LINE, MARGIN, HEAD = 1.25, 1.0, 0.14, 0.75, 0.5  # inches in the picture of examples
SMALL = 7.5  # points
DPI = 150

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Divided:
    """A run's division of N images, and the true labels and types where these are known."""

    run: FinishedRun
    classes: tuple[str, ...]
    artefact: dict[str, Any]
    """the artefact of stage `division`"""
    indices: Integers
    """N positions in the beton"""
    given: Integers
    predicted: Integers
    """N labels predicted by the teacher"""
    labels: Integers
    """N labels for training; those of images found open-set are not used"""
    sets: Integers
    """N found sets: CLEAN, CLOSED or OPEN"""
    losses: Floats
    """N losses before scaling"""
    scaled: Floats
    mixture: Mixture
    true: Integers | None
    """N true labels, OPEN (-1) for open-set images; None if unknown"""
    types: Integers | None
    """N true sets: CLEAN, CLOSED or OPEN; None if unknown"""

    @classmethod
    def of(cls, folder: Path) -> "Divided":
        """Read a run's division.  Raises DataError where the run has none, or where its labels have changed since."""
        run = FinishedRun(folder)
        path = run.folder.artefact("division")
        if "division" not in run.config.stages:
            raise DataError(
                f"{folder}: a run without stage division; name one that has it, as with stages=[teacher,division]"
            )
        if not path.exists():
            raise DataError(f"{folder}: stage division is not finished; start the run's command again, it goes on")
        artefact, labels = artefacts.load(path), run.labels
        indices, given = artefact["indices"].numpy(), artefact["given"].numpy()
        order = np.argsort(labels.indices)
        rows = order[np.searchsorted(labels.indices, indices, sorter=order).clip(max=len(order) - 1)]
        if (labels.indices[rows] != indices).any() or (labels.given[rows] != given).any():
            raise DataError(f"{path}: a division of other images or labels than {run.folder.labels} has; train it anew")
        mixture = {name: values.numpy() for name, values in artefact["mixture"].items()}
        return cls(
            run=run,
            classes=tuple(map(visible, artefact["classes"])),
            artefact=artefact,
            indices=indices,
            given=given,
            predicted=artefact["predicted"].numpy(),
            labels=artefact["labels"].numpy(),
            sets=artefact["sets"].numpy(),
            losses=artefact["losses"].numpy(),
            scaled=artefact["scaled"].numpy(),
            mixture=Mixture(**mixture, converged=artefact["converged"]),
            true=None if labels.true is None else labels.true[rows],
            types=None if labels.types is None else labels.types[rows],
        )

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def evidence(self) -> str:
        """How logits become evidence, in a few words."""
        scale = self.run.config.section(DivisionConfig).logit_scale
        return self.artefact["evidence"] + (f" of {scale:g} x logits" if scale != 1 else "")


def division(runs: Sequence[Path], *, examples: int = 10) -> str:
    """How well images were divided into clean, closed-set and open-set images, with pictures of losses and examples.

    runs: run folders whose stage division is finished.
    examples: how many images of each set the second picture shows at most, drawn at random, always the same.

    Writes <run>/figures/division.png and divided.png and the same to TensorBoard; returns tables and paths.
    """
    if examples < 1:
        raise ConfigError(f"examples is {examples}, but must be at least 1")
    pages = []
    for divided in [Divided.of(folder) for folder in runs]:
        folder = divided.run.figures
        figures = {"division": draw(divided), "divided": draw_examples(divided, examples)}
        paths = []
        with SummaryWriter(str(divided.run.folder.board("figures"))) as board:
            for name, figure in figures.items():
                path = folder / f"{name}.png"
                write_atomically(path, figure.savefig)
                board.add_figure(f"figures/{name}", figure)
                paths.append(str(path))
        pages.append("\n".join([_table(divided), "", *paths]))
    return "\n\n".join(pages)


# Numbers


def _table(divided: Divided) -> str:
    """Markdown: how the division was made, a table of found sets (rows) by true sets (columns), and the right labels.

    Where the truth is unknown, the table has counts of the found sets alone.
    """
    found = np.bincount(divided.sets, minlength=len(SETS))
    if divided.types is None:
        lines = ["| found | images | share |", "|---|---|---|"]
        lines += [f"| {name} | {n} | {_percent(n / len(divided))} |" for name, n in zip(NAMES, found, strict=True)]
        judged = ["The true labels are not known, so nothing can be said of how right this is."]
    else:
        measured = quality(divided.sets, divided.types)
        lines = [
            "| found | images | truly clean | truly closed set | truly open set | precision |",
            "|---|---|---|---|---|---|",
        ]
        for row, name in enumerate(NAMES):
            counts = " | ".join(map(str, measured.confusion[:, row]))
            lines.append(f"| {name} | {found[row]} | {counts} | {_percent(measured.precision[row])} |")
        totals = " | ".join(map(str, measured.confusion.sum(axis=1)))
        lines.append(f"| all | {len(divided)} | {totals} | {_percent(float(np.mean(divided.sets == divided.types)))} |")
        lines.append(f"| recall | | {' | '.join(map(_percent, measured.recall))} | |")
        judged = [_labels(divided)]
    return "\n".join([_origin(divided), *_notes(divided), "", *lines, "", *judged])


def _origin(divided: Divided) -> str:
    artefact, (clean, closed) = divided.artefact, divided.artefact["thresholds"]
    return (
        f"{divided.run.folder}: {len(divided)} images; evidence {divided.evidence}, scaling {artefact['scaling']}, "
        f"thresholds {clean:g} and {closed:g}, {len(divided.mixture.means)} components; "
        f"losses {divided.losses.min():.3f} to {divided.losses.max():.3f}"
    )


def _notes(divided: Divided) -> list[str]:
    """A line that lists the difficulties of the division; no line where there were none."""
    artefact = divided.artefact
    counted = {
        "undecided": "images undecided between sets",
        "underflows": "of them so far from all components that their densities are zero",
        "narrow": "components as narrow as they may be, of (almost) equal losses",
    }
    notes = [f"{artefact[key]} {meaning}" for key, meaning in counted.items() if artefact[key]]
    notes += [] if artefact["converged"] else ["the mixture had not converged after its last iteration"]
    return [f"Note: {'; '.join(notes)}"] if notes else []


def _labels(divided: Divided) -> str:
    """A line with the numbers of right labels: refined in the closed set, used for training, and given."""
    closed, used = divided.sets == CLOSED, divided.sets != SETS.index("open")

    def right(labels: Integers, rows: NDArray[np.bool_]) -> str:
        correct, count = int((labels == divided.true)[rows].sum()), int(rows.sum())
        return f"{correct} of {count} ({_percent(correct / count if count else None)})"

    return (
        f"Right labels: {right(divided.predicted, closed)} of the closed set as refined, "
        f"{right(divided.labels, used)} of clean and closed set together, {right(divided.given, used)} as given."
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


# The losses


def draw(divided: Divided) -> Figure:
    """Fig. 3: a histogram of the losses by true type, and below it the mixture by set, with the two thresholds."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(9.5, 7), dpi=DPI, sharex=True, sharey=True, layout="constrained"
    )
    last = max(1.0, float(divided.scaled.max()))
    edges = np.linspace(0, last, int(np.clip(len(divided) ** 0.5, 20, 100)) + 1).tolist()
    _histogram(upper, divided, edges)
    _mixture(lower, divided, edges)
    for axis in (upper, lower):
        _thresholds(axis, divided.artefact["thresholds"])
        axis.set_ylabel("images")
        axis.margins(x=0.01)
    # A spike of clean losses may be a thousand times as high as the histogram between the sets.
    top = np.histogram(divided.scaled, edges)[0].max()
    upper.set_yscale("log")
    upper.set_ylim(0.5, 2 * top)
    upper.yaxis.set_major_formatter("{x:,g}")
    lower.set_xlabel(f"subjective-logic loss{_scaling(divided.artefact['scaling'])}")
    clean, closed = divided.artefact["thresholds"]
    how = f"evidence {divided.evidence}, thresholds {clean:g} and {closed:g}"
    figure.suptitle(f"{len(divided):,} images; {how}", fontsize="medium")
    plt.close(figure)
    return figure


def _scaling(how: str) -> str:
    return {"none": "", "per_class": ", scaled within each given class"}.get(how, f", scaled ({how})")


def _histogram(axis: Axes, divided: Divided, edges: list[float]) -> None:
    if divided.types is None:
        axis.hist(divided.scaled, edges, color=UNKNOWN, label=f"all ({len(divided):,})")
        title = "losses; what the images truly are is not known"
    else:
        for which, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
            values = divided.scaled[divided.types == which]
            label = f"{name} ({len(values):,})"
            axis.hist(
                values, edges, label=label,
                histtype="stepfilled", facecolor=(colour, 0.25), edgecolor=colour, linewidth=1.5,
            )  # fmt: skip
        title = "losses by what the images truly are"
    _head(axis, title)


def _mixture(axis: Axes, divided: Divided, edges: list[float]) -> None:
    """Draw each set's part of the mixture's density in images per bin, over the histogram of the losses in grey."""
    axis.hist(divided.scaled, edges, histtype="stepfilled", color="0.88")
    places = np.linspace(edges[0], edges[-1], 2000)
    density = divided.mixture.assign(places, probability="density").probability  # 2000 x 3
    images = density * len(divided) * (edges[1] - edges[0])
    found = np.bincount(divided.sets, minlength=len(SETS))
    for which, (name, colour) in enumerate(zip(NAMES, COLOURS, strict=True)):
        means = divided.mixture.means[divided.mixture.set == which]
        label = f"{name} ({found[which]:,} found, {len(means)} component{'s' * (len(means) != 1)})"
        axis.plot(places, images[:, which], color=colour, label=label)
        axis.plot(means, np.full(len(means), 0.03), "^", color=colour, transform=axis.get_xaxis_transform())
    _head(axis, "mixture by set; triangles are the means of its components")


def _head(axis: Axes, title: str) -> None:
    """Put title and legend above the panel, where neither hides a curve."""
    axis.set_title(title, pad=28)
    axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(NAMES), frameon=False, columnspacing=1.2, fontsize=9
    )


def _thresholds(axis: Axes, thresholds: Sequence[float]) -> None:
    for threshold in thresholds:
        axis.axvline(threshold, color="black", linestyle="--", linewidth=1)


# Examples


def draw_examples(divided: Divided, most: int) -> Figure:
    """Fig. 5: at most `most` images of each found set with their labels; images of another set are framed and crossed.

    A frame has the colour of the image's true set; it is dashed where the set is right but the refined label is wrong.
    """
    prepare_drawing(divided.classes)
    drawn = [_drawn(divided, which, most) for which in range(len(SETS))]
    heights = [_height(divided, which, len(rows)) for which, rows in enumerate(drawn)]
    width = MARGIN + CELL * COLUMNS
    figure = plt.figure(figsize=(width, sum(heights) + HEAD), dpi=DPI)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    shown = np.concatenate(drawn)
    pixels = divided.run.dataset().images("train", divided.indices[shown])
    images = dict(zip(shown.tolist(), pixels, strict=True))
    top = 0.0
    for which, rows in enumerate(drawn):
        _block(axis, divided, which, {row: images[row] for row in rows.tolist()}, top)
        top += heights[which]
    _footer(axis, divided, top)
    axis.set(xlim=(0, width), ylim=(sum(heights) + HEAD, 0))  # inches, downwards
    plt.close(figure)
    return figure


def _drawn(divided: Divided, which: int, most: int) -> Integers:
    """Draw at most `most` images of a found set at random, the same at every call: their rows, ascending."""
    rows = np.flatnonzero(divided.sets == which)
    chosen = np.random.default_rng([which, EXAMPLES]).choice(rows, min(most, len(rows)), replace=False)
    return np.sort(chosen)


def _captions(divided: Divided, which: int) -> dict[str, Integers]:
    """The lines of labels below the images of a found set: name of the line -> labels of all N images."""
    lines = {"given": divided.given}
    if which == CLOSED:
        lines["refined"] = divided.predicted
    if divided.true is not None:
        lines["true"] = divided.true
    return lines


def _height(divided: Divided, which: int, count: int) -> float:
    """Height of the block of a found set with `count` images, in inches."""
    return HEAD + -(-count // COLUMNS) * _row_height(divided, which)


def _row_height(divided: Divided, which: int) -> float:
    return IMAGE + LINE * (len(_captions(divided, which)) + 1.5)


def _block(axis: Axes, divided: Divided, which: int, images: dict[int, NDArray[np.uint8]], top: float) -> None:
    """Draw the block of a found set from `top` downwards: its title and its images (row -> pixels)."""
    found = int((divided.sets == which).sum())
    title = f"found {NAMES[which]}: {f'{len(images):,} of {found:,} images' if found else 'no image'}"
    axis.add_patch(Rectangle((0.12, top + 0.2), 0.15, 0.15, color=COLOURS[which]))
    axis.text(0.36, top + 0.275, title, weight="bold", size=11, va="center")
    for number, (row, image) in enumerate(images.items()):
        line, column = divmod(number, COLUMNS)
        above = top + HEAD + _row_height(divided, which) * line
        _example(axis, divided, which, row, image, MARGIN + CELL * column, above)
        if column == 0:
            for y, word in zip(_lines(above), _captions(divided, which), strict=False):
                axis.text(0.12, y, word, size=SMALL, color="0.4", va="center")


def _example(
    axis: Axes, divided: Divided, which: int, row: int, image: NDArray[np.uint8], left: float, top: float
) -> None:
    """Draw an image of the found set `which` with its labels below."""
    enlarged_without_blur = "nearest" if len(image) <= IMAGE * DPI else "antialiased"
    place = (left, left + IMAGE, top + IMAGE, top)
    axis.imshow(image, extent=place, interpolation=enlarged_without_blur, aspect="auto")
    wrong = _wrong(divided, which, row)
    if wrong:
        axis.add_patch(Rectangle((left, top), IMAGE, IMAGE, fill=False, linewidth=3, **wrong))
    for y, (word, labels) in zip(_lines(top), _captions(divided, which).items(), strict=False):
        name = divided.classes[labels[row]] if labels[row] != OPEN else "none of them"
        crossed = bool(wrong) and word == "true"
        axis.text(
            left + IMAGE / 2, y, _fitting(f"✗ {name}" if crossed else name, CELL - 0.1),
            size=SMALL, ha="center", va="center", weight="bold" if crossed else "normal", parse_math=False,
        )  # fmt: skip


def _lines(top: float) -> Iterator[float]:
    """The places of the lines of labels below an image whose upper edge is at `top`."""
    return itertools.count(top + IMAGE + 0.8 * LINE, LINE)


def _wrong(divided: Divided, which: int, row: int) -> dict[str, Any]:
    """The style of the frame around an image of the found set `which`: empty unless the set or the label is wrong."""
    if divided.types is None or divided.true is None:
        return {}
    if divided.types[row] != which:
        return {"edgecolor": COLOURS[divided.types[row]]}
    if which == CLOSED and divided.predicted[row] != divided.true[row]:
        return {"edgecolor": COLOURS[which], "linestyle": (0, (2, 1))}
    return {}


def _footer(axis: Axes, divided: Divided, top: float) -> None:
    text = "the true labels are not known"
    if divided.types is not None:
        text = (
            "✗ wrong: a frame has the colour of what the image truly is; "
            "it is dashed where the set is right, but not the refined label"
        )
    axis.text(0.12, top + HEAD / 2, text, size=9, color="0.3", va="center")


def _fitting(name: str, width: float) -> str:
    """A class's name, cut to fit into `width` inches."""
    font = FontProperties(size=SMALL, weight="bold")

    def is_wide(text: str) -> bool:
        return text_to_path.get_text_width_height_descent(text, font, False)[0] > 72 * width

    if not is_wide(name):
        return name
    return name[: bisect(range(1, len(name)), 0, key=lambda letters: is_wide(f"{name[:letters]}…"))] + "…"
