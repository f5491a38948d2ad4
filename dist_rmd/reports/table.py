"""Tables of a sweep's results over seeds beside the published numbers; missing results are marked."""

import csv
import io
import math
import statistics
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dist_rmd.errors import ConfigError, DataError
from dist_rmd.files import write_atomically, write_text
from dist_rmd.reports import _typeset
from dist_rmd.run.folder import picture_path
from dist_rmd.sweep import choice
from dist_rmd.sweep.comparison import Block, Comparison, named
from dist_rmd.sweep.results import HELD_OUT, RIGHT, STATUSES, TEST, WRONG, Cell, Outcome, Sweep, read
from dist_rmd.text.escapes import prepare_drawing

__all__ = ["table"]

GAP = "—"
MARKERS = "oDs^vP"
IMAGES = {TEST: "test images", HELD_OUT: "held-out images"}
"""tag of an accuracy -> the images that it is measured on"""


def table(
    runs: Sequence[Path],
    *,
    grid: str | None = None,
    only: tuple[str, ...] = (),
    over: str | None = None,
    tag: str = TEST,
    lines: bool = False,
) -> str:
    """Test accuracy of a sweep's runs beside the published one, mean and standard deviation over seeds.

    runs: sweep folders, or runs in them; folders of one grid, made on several machines, are pooled.
    grid: expected name of the grid, such as table1; another grid is an error.
    only: some cells, such as method=CE,CE+RMDNet; once for each axis.
    over: the method that all others are compared with, seed by seed, in place of those that the grid names.
    tag: test/top1, or val/top1: accuracy on the noisy labels that data.holdout holds out, to choose settings by.
    lines: true for a line for each cell, with all that was measured, also the labels fitted in the last epoch, and the
        CPU seconds of rank 0 in training steps; writes lines.md alone.

    Last and best epoch have a table each, and so have the epoch that is best on held-out labels, where there are any,
    and the time; cells without a result are marked.  Writes table.md, table.csv (a line for each cell), table.tex and
    figures/table.png into the first sweep folder; returns Markdown and paths.
    """
    if tag not in IMAGES:
        raise ConfigError(f"--tag {tag}: expected {' or '.join(IMAGES)}")
    sweep = read(runs, tag)
    folder = sweep.folders[0]
    if grid not in (None, sweep.grid):
        raise DataError(f"{folder} holds grid {sweep.grid}, not {grid}")
    sweep = sweep.only(choice.from_words(only))
    results = Comparison(sweep if over is None else sweep.over(over))
    if lines:
        page = _markdown(results, [("A line for each cell", _lines)]) + "\n"
        write_text(folder / "lines.md", page)
        return f"{page}\n{folder / 'lines.md'}"
    page = _markdown(results, _sections(results)) + "\n"
    contents = {"table.md": page, "table.csv": _csv(results), "table.tex": _latex(results) + "\n"}
    for name, text in contents.items():
        write_text(folder / name, text)
    picture, figure = picture_path(folder, "table"), draw(results)
    write_atomically(picture, lambda file: figure.savefig(file, format="png", dpi=150))
    return "\n".join([page, *(str(path) for path in [*(folder / name for name in contents), picture])])


# The page


Section = tuple[str, Callable[[Comparison, Block], _typeset.Table]]
"""a heading, and the function that makes the table of a block of cells under it"""


def _markdown(results: Comparison, sections: Sequence[Section]) -> str:
    sweep = results.sweep
    lines = [*_header(results), *(f"{note}." for note in _legend(results))]
    parts = [f"# {sweep.title}", "\n".join(f"- {line}" for line in lines)]
    for heading, which in sections:
        parts.append(f"## {heading}")
        for block in results.blocks:
            parts += [f"**{block.title}**"] if block.title else []
            parts.append(_typeset.markdown(which(results, block)))
    if troubles := _troubles(sweep):
        parts += ["## Runs to look at", "\n".join(f"- {trouble}" for trouble in troubles)]
    return "\n\n".join(parts)


def _latex(results: Comparison) -> str:
    header, legend = _header(results), _legend(results)
    parts = ["% needs \\usepackage{booktabs} and \\usepackage{graphicx}"]
    for heading, which in _sections(results):
        for block in results.blocks:
            title = ", ".join(filter(None, [results.sweep.title, block.title]))
            caption = f"{title}: {heading[0].lower()}{heading[1:]}."
            parts.append(_typeset.latex(which(results, block), caption, [*header, *(f"{note}." for note in legend)]))
    return "\n\n".join(parts)


def _sections(results: Comparison) -> list[Section]:
    """Headings, and the function that makes a block's table under each; those without a number are left out."""
    outcomes = results.sweep.outcomes
    sections: list[Section] = [("Last epoch", _last), (f"Best epoch, {_chosen(results.sweep)}", _best)]
    if _known(outcome.held_out for outcome in outcomes):
        sections.append(("Epoch chosen on held-out labels as given", _held_out))
    if _known(outcome.seconds for outcome in outcomes):
        sections.append(("Seconds of training, of the last stage", _seconds))
    return sections


def _header(results: Comparison) -> list[str]:
    """Lines above the tables: what the numbers are, how many runs are finished, and departures from the grid."""
    sweep = results.sweep
    counts = Counter(outcome.status for outcome in sweep.outcomes)
    missing = [f"{counts[status]} {status}" for status in STATUSES[1:] if counts[status]]
    finished = f"{counts['finished']} of {len(sweep.outcomes)} runs finished"
    lines = [
        f"{_measure(sweep).capitalize()} in percent, mean ± sample standard deviation over seeds.",
        f"{', '.join([finished, *missing])}.",
        *([f"Only {choice.in_words(sweep.chosen)}."] if sweep.chosen else []),
        *_changes(results),
    ]
    if sweep.compare:
        lines += _claim(results)
    return lines


def _measure(sweep: Sweep) -> str:
    return "test accuracy" if sweep.tag == TEST else f"accuracy on the noisy labels of {IMAGES[sweep.tag]}"


def _chosen(sweep: Sweep) -> str:
    return f"chosen by looking at the {IMAGES[sweep.tag]}"


def _changes(results: Comparison) -> list[str]:
    """Lines on departures from the grid's recipe: first those of all cells, then the further ones of single cells."""
    cells = list(results.sweep.cells.values())
    if not any(cell.changed for cell in cells):
        return ["Recipe: the grid's own, unchanged."]
    common = [change for change in cells[0].changed if all(change in cell.changed for cell in cells)]
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[tuple(change for change in cell.changed if change not in common)].append(cell)
    lines = [f"Changed from the grid's recipe in every run: {'; '.join(common)}."] if common else []
    lines += [
        f"Changed from the grid's recipe in {_where(results, group)}: {'; '.join(rest)}."
        for rest, group in groups.items()
        if rest
    ]
    if results.sweep.published:
        lines += ["The published numbers are of the paper's own recipe at full size, without these changes."]
    return lines


def _where(results: Comparison, group: Sequence[Cell]) -> str:
    """Names a group of cells in few words, by the values they share; table.csv lists every cell."""
    axes = results.sweep.axes
    taken = {axis: {results.values(cell)[axis] for cell in group} for axis in axes}
    such = [
        cell
        for cell in results.sweep.cells.values()
        if all(results.values(cell)[axis] in values for axis, values in taken.items())
    ]
    if len(such) > len(group):
        return f"{len(group)} cells (see table.csv), such as {' '.join(group[0].coordinates)}"
    return "; ".join(
        "/".join(named(axis, value) for value in values if value in taken[axis])
        for axis, values in axes.items()
        if len(taken[axis]) < len(values)
    )


def _claim(results: Comparison) -> list[str]:
    """A line with the number of cells in which a method gains over its baseline, in this sweep and as published."""
    pairs = [
        (statistics.mean(gains), results.published_gain(cell))
        for cell in results.sweep.cells.values()
        if (gains := results.gains(cell))
    ]
    if not pairs:
        return ["Gain over the baseline: no pair of runs is finished."]

    def ahead(gains: Sequence[float]) -> str:
        return f"{sum(gain > 0 for gain in gains)} of {len(gains)}, {statistics.mean(gains):+.2f} on average"

    ours = ahead([ours for ours, _ in pairs])
    printed = [gain for _, gain in pairs if gain is not None]
    beside = f" (published, of these cells: {ahead(printed)})" if printed else ""
    return [f"Cells with a gain over the baseline, last epoch: {ours}{beside}."]


def _last(results: Comparison, block: Block) -> _typeset.Table:
    has_published = any(results.published(cell) for cell in block.cells.values())
    has_compare = any(row in results.sweep.compare for row in block.rows)

    def rows(label: str) -> list[tuple[str, Callable[[Cell], str]]]:
        kinds: list[tuple[str, Callable[[Cell], str]]] = [("ours", lambda cell: _ours(cell, "last"))]
        if has_published:
            kinds += [
                (results.published_name, lambda cell: _printed(results, cell)),
                ("difference", lambda cell: _signed(results.difference(cell))),
            ]
        if baseline := results.sweep.compare.get(label):
            kinds.append((f"gain over {baseline}", lambda cell: _spread(results.gains(cell), "+.2f")))
            if has_published:
                kinds.append(("published gain", lambda cell: _signed(results.published_gain(cell))))
        return kinds

    return _table(results, block, rows, is_plain=not (has_published or has_compare))


def _best(results: Comparison, block: Block) -> _typeset.Table:
    return _table(results, block, lambda label: [("ours", lambda cell: _ours(cell, "best"))], is_plain=True)


def _held_out(results: Comparison, block: Block) -> _typeset.Table:
    """Accuracies on test images after the epoch that is best on held-out labels, of the rows that hold labels out."""

    def rows(label: str) -> list[tuple[str, Callable[[Cell], str]]]:
        cells = [cell for (row, _), cell in block.cells.items() if row == label]
        if not _known(outcome.held_out for cell in cells for outcome in cell.outcomes.values()):
            return []
        kinds: list[tuple[str, Callable[[Cell], str]]] = [("ours", lambda cell: _ours(cell, "held_out"))]
        if baseline := results.sweep.compare.get(label):
            kinds.append((f"gain over {baseline}", lambda cell: _spread(results.gains(cell, "held_out"), "+.2f")))
        return kinds

    return _table(results, block, rows, is_plain=False)


def _seconds(results: Comparison, block: Block) -> _typeset.Table:
    def text(cell: Cell) -> str:
        spent = _known(outcome.seconds for outcome in cell.finished.values())
        return f"{statistics.mean(spent):.0f}" if spent else GAP

    return _table(results, block, lambda label: [("ours", text)], is_plain=True, shown="seconds")


def _lines(results: Comparison, block: Block) -> _typeset.Table:
    """A line for each cell; columns in which nothing is known of any cell are left out."""

    def gain(cell: Cell) -> str:
        baseline = results.sweep.compare.get(results.values(cell)[results.row_axis])
        return f"{_spread(gains, '+.2f')} over {baseline}" if (gains := results.gains(cell)) else ""

    def best(cell: Cell) -> str:
        at = ", ".join(str(outcome.best_epoch) for outcome in cell.finished.values())
        return f"{_ours(cell, 'best')} at epoch {at}" if at else ""

    def known(form: str, of: Callable[[Outcome], float | None]) -> Callable[[Cell], str]:
        return lambda cell: _spread(_known(map(of, cell.finished.values())), form)

    kinds: dict[str, Callable[[Cell], str]] = {
        "last epoch": lambda cell: _ours(cell, "last"),
        "published": lambda cell: _printed(results, cell) if results.published(cell) else "",
        "gain": gain,
        f"best epoch (by {IMAGES[results.sweep.tag]})": best,
        "epoch chosen on held-out labels": known(".2f", lambda outcome: outcome.held_out),
        "wrong labels fitted (%)": known(".1f", lambda outcome: outcome.fitted.get(WRONG)),
        "right labels fitted (%)": known(".1f", lambda outcome: outcome.fitted.get(RIGHT)),
        "seconds": known(".0f", lambda outcome: outcome.seconds),
        "CPU seconds": known(".0f", lambda outcome: outcome.cpu_seconds),
        "seeds": lambda cell: str(len(cell.finished)),
    }
    cells = {(row, *at): block.cells[row, at] for row in block.rows for at in block.columns if (row, at) in block.cells}
    columns = {kind: [text(cell) for cell in cells.values()] for kind, text in kinds.items()}
    told = {kind: texts for kind, texts in columns.items() if any(texts)}
    rows = tuple((*names, *texts) for names, texts in zip(cells, zip(*told.values(), strict=True), strict=True))
    return _typeset.Table((results.row_axis, *results.column_axes), tuple((kind,) for kind in told), (rows,))


def _table(
    results: Comparison,
    block: Block,
    rows: Callable[[str], list[tuple[str, Callable[[Cell], str]]]],
    is_plain: bool,
    shown: str = "accuracy",
) -> _typeset.Table:
    """A table of a block's cells.

    rows: label of a row -> the kinds of its lines, each with the function that makes a cell's text.
    is_plain: each row has a single line, whose kind is not named.  shown: what the cells tell.
    """
    groups = []
    for label in block.rows:
        lines: list[tuple[str, ...]] = []
        for kind, text in rows(label):
            cells = (block.cells.get((label, column)) for column in block.columns)
            stub = (label,) if is_plain else (label if not lines else "", kind)
            lines.append((*stub, *(text(cell) if cell else "" for cell in cells)))
        groups += [tuple(lines)] if lines else []
    headings = tuple(results.heading(column, shown) for column in block.columns)
    return _typeset.Table((results.row_axis,) if is_plain else (results.row_axis, ""), headings, tuple(groups))


def _ours(cell: Cell, which: str) -> str:
    """A cell's text: mean ± std over finished seeds and the fate of the others, or why no seed is finished."""
    finished, planned = cell.finished.values(), len(cell.outcomes)
    counts = Counter(outcome.status for outcome in cell.outcomes.values())
    if not finished:
        status = next(status for status in STATUSES if counts[status])
        if status == "not begun":
            return GAP
        return status if counts[status] == planned else f"{status} ({counts[status]}/{planned})"
    text = _spread(_known(getattr(outcome, which) for outcome in finished))
    text += "†" if any(outcome.collapsed for outcome in finished) else ""
    text += "‡" if any(outcome.forced for outcome in finished) else ""
    lost = [f"{counts[status]} {status}" for status in ("diverged", "failed") if counts[status]]
    return text if len(finished) == planned else f"{text} ({', '.join([f'{len(finished)}/{planned}', *lost])})"


def _printed(results: Comparison, cell: Cell) -> str:
    printed = results.published(cell)
    if printed is None:
        return "not printed"
    mark = f" [{results.notes.index(printed.note) + 1}]" if printed.note else ""
    return f"{printed.accuracy:.2f}{mark}"


def _spread(values: Sequence[float], form: str = ".2f") -> str:
    """Mean ± standard deviation; of a single value the mean alone; of no value the empty text."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):{form.removeprefix('+')}}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _legend(results: Comparison) -> list[str]:
    """The meanings of the marks that occur in the tables."""
    outcomes = results.sweep.outcomes
    texts = [_ours(cell, "last") for cell in results.sweep.cells.values()]
    legend = [
        (GAP in texts, f"{GAP}: not begun"),
        (any("(" in text for text in texts), "(n/m): n of the m seeds planned; those without a result are in no mean"),
        (any(outcome.collapsed for outcome in outcomes), "†: collapsed, one class is predicted for all test images"),
        (any(outcome.forced for outcome in outcomes), "‡: forced to go on under another configuration"),
    ]
    marks = [text for holds, text in legend if holds]
    return marks + [f"[{number}] {note}" for number, note in enumerate(results.notes, start=1)]


def _troubles(sweep: Sweep) -> list[str]:
    """A line for each run that failed, diverged or has a doubtful result."""

    def line(outcome: Outcome) -> str | None:
        if outcome.status in ("diverged", "failed"):
            return f"{outcome.folder}: {outcome.status}: {outcome.reason}"
        if outcome.status == "unfinished":
            return f"{outcome.folder}: unfinished"
        return f"{outcome.folder}: collapsed" if outcome.collapsed else None

    return [text for outcome in sweep.outcomes if (text := line(outcome))]


# The data


def _csv(results: Comparison) -> str:
    """CSV text: a line for each cell; accuracies in percent with four decimals."""
    columns = (
        *results.sweep.axes, "published", "last_mean", "last_std", "difference", "best_mean", "best_std",
        "held_out_mean", "held_out_std", "gain", "gain_std", "published_gain", "seconds", "n", "seeds", "planned",
        "status", "changed", "note",
    )  # fmt: skip
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for cell in results.sweep.cells.values():
        finished, printed, gains = cell.finished, results.published(cell), results.gains(cell)
        counts = Counter(outcome.status for outcome in cell.outcomes.values())
        collapsed = sum(outcome.collapsed for outcome in finished.values())
        statuses = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
        writer.writerow(
            {
                **results.values(cell),
                **_moments("last_mean", "last_std", [outcome.last for outcome in finished.values()]),
                **_moments("best_mean", "best_std", [outcome.best for outcome in finished.values()]),
                **_moments("held_out_mean", "held_out_std", _known(outcome.held_out for outcome in finished.values())),
                **_moments("gain", "gain_std", gains),
                "seconds": _moments("s", "", _known(outcome.seconds for outcome in finished.values()))["s"],
                "n": len(finished),
                "seeds": " ".join(map(str, finished)),
                "planned": len(cell.outcomes),
                "published": printed.accuracy if printed else "",
                "difference": _number(results.difference(cell)),
                "published_gain": _number(results.published_gain(cell)),
                "status": ", ".join([*statuses, *([f"{collapsed} collapsed"] if collapsed else [])]),
                "changed": "; ".join(cell.changed),
                "note": printed.note if printed else "",
            }
        )
    return file.getvalue()


def _moments(mean: str, std: str, values: Sequence[float]) -> dict[str, str]:
    return {
        mean: _number(statistics.mean(values)) if values else "",
        std: _number(statistics.stdev(values)) if len(values) > 1 else "",
    }


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


# The picture


def draw(results: Comparison) -> Figure:
    """Accuracy after the last epoch over the table's columns, a panel for each block; published numbers are hollow.

    Where the columns are four or more values of one parameter, the points of a row are joined to a curve.
    """
    prepare_drawing([results.sweep.title, *(name for values in results.sweep.axes.values() for name in values)])
    blocks, compare = results.blocks, results.sweep.compare
    families: dict[str, list[str]] = {}  # a baseline and methods compared with it share a colour
    for row in results.sweep.axes[results.row_axis]:
        families.setdefault(compare.get(row, row), []).append(row)
    colours = plt.get_cmap("tab10" if len(families) <= 10 else "tab20")
    styles = {
        row: (colours(number % colours.N), MARKERS[place % len(MARKERS)])
        for number, (base, family) in enumerate(families.items())
        for place, row in enumerate(sorted(family, key=lambda row: row != base))
    }
    widest = max(len(block.columns) * len(block.rows) for block in blocks)
    size = min(16.0, max(6.0, 3.0 + 0.14 * widest)), 0.6 + 3.2 * len(blocks)
    figure, panels = plt.subplots(len(blocks), 1, figsize=size, squeeze=False, layout="constrained")
    handles: dict[str, Any] = {}
    for axis, block in zip(panels[:, 0], blocks, strict=True):
        rows = [row for row in styles if row in block.rows]
        for number, row in enumerate(rows):
            shift = (0.2 if _is_curve(block) else 0.84) * ((number + 0.5) / len(rows) - 0.5)
            handles[row] = _dots(axis, results, block, row, shift, *styles[row])
        _dress(axis, results, block)
    if any(results.published(cell) for cell in results.sweep.cells.values()):
        handles[results.published_name] = Line2D([], [], marker="o", color="0.4", fillstyle="none", linestyle="none")
    title = f"{results.sweep.title}: last epoch, mean ± std over seeds"
    figure.suptitle(textwrap.fill(title, int(10 * size[0])))  # letters to an inch
    figure.legend(list(handles.values()), list(handles), loc="outside right center", frameon=False)
    plt.close(figure)
    return figure


def _dots(
    axis: Axes, results: Comparison, block: Block, row: str, shift: float, colour: Any, marker: str
) -> ErrorbarContainer:
    x, means, spreads, printed = [], [], [], []
    for place, column in enumerate(block.columns):
        cell = block.cells.get((row, column))
        values = [outcome.last for outcome in cell.finished.values()] if cell else []
        number = results.published(cell) if cell else None
        x.append(place + shift)
        means.append(statistics.mean(values) if values else math.nan)
        spreads.append(statistics.stdev(values) if len(values) > 1 else 0.0)
        printed.append(number.accuracy if number else math.nan)
    axis.plot(x, printed, marker, color=colour, fillstyle="none", markersize=6, linestyle="none", alpha=0.7)
    if _is_curve(block):
        there = [place for place, mean in enumerate(means) if not math.isnan(mean)]
        axis.plot([x[place] for place in there], [means[place] for place in there], color=colour, linewidth=1.2)
    return axis.errorbar(x, means, spreads, fmt=marker, color=colour, markersize=4, capsize=2, linestyle="none")


def _is_curve(block: Block) -> bool:
    """Whether the columns are four or more numbers of one axis."""
    if len(block.columns) < 4 or any(len(column) != 1 for column in block.columns):
        return False
    try:
        return all(math.isfinite(float(value)) for (value,) in block.columns)
    except ValueError:
        return False


def _dress(axis: Axes, results: Comparison, block: Block) -> None:
    count = len(block.columns)
    if _is_curve(block):
        axis.set_xticks(range(count), [value for (value,) in block.columns])
        axis.set_xlabel(results.column_axes[0])
    else:
        axis.set_xticks(range(count), ["\n".join(results.heading(column)) for column in block.columns])
    axis.set_xlim(-0.5, count - 0.5)
    for edge in range(1, count):
        axis.axvline(edge - 0.5, color="0.85", linewidth=0.8)
    axis.grid(axis="y", color="0.92")
    axis.set_axisbelow(True)
    axis.set_ylabel("test accuracy (%)" if results.sweep.tag == TEST else "accuracy on held-out labels (%)")
    axis.set_title(block.title)
