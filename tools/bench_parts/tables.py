"""What was measured, as rows of figures: kept as JSON, shown as Markdown, compared with an earlier run's."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LEAST = 1.05  # below this, a change is not spoken of


@dataclass
class Row:
    """One way of doing something."""

    name: str
    seconds: list[float] = field(default_factory=list)
    """one figure a round"""
    base: str | None = None
    """the row of the same table that it is compared with, round by round"""
    images: int = 0
    """how many are dealt with in that time; shown as images/s"""
    facts: dict[str, str] = field(default_factory=dict)
    """further cells: column -> text"""
    absent: str = ""
    """why there is no figure"""


@dataclass
class Table:
    """Rows measured together."""

    title: str
    about: str
    rows: list[Row]
    ratio: str = "times as fast"
    """or "times as long", for what something adds"""

    def ratios(self, row: Row) -> list[float]:
        """Of the row to its base, one a round; empty if there is nothing to compare."""
        base = next((other for other in self.rows if other.name == row.base), None)
        if base is None or not (row.seconds and base.seconds):
            return []
        faster = self.ratio == "times as fast"
        return [b / t if faster else t / b for t, b in zip(row.seconds, base.seconds, strict=True)]

    @staticmethod
    def load(tree: Mapping[str, Any]) -> "Table":
        return Table(**{**tree, "rows": [Row(**row) for row in tree["rows"]]})


def spread(figures: Sequence[float], digits: int = 3) -> str:
    """median (least..most)"""
    middle, low, high = (short(f(figures), digits) for f in (statistics.median, min, max))
    return f"{middle} ({low}..{high})"


def short(number: float, digits: int = 3) -> str:
    """Significant digits, without an exponent for large numbers."""
    return f"{number:.{digits}g}" if abs(number) < 10**digits else f"{number:,.0f}"


def markdown(table: Table) -> str:
    """Title, text and rows; columns that no row fills are left out."""
    facts = list(dict.fromkeys(column for row in table.rows for column in row.facts))
    columns = ["", "ms", "images/s", table.ratio, *facts]
    lines = [[row.name, *_cells(table, row), *(row.facts.get(column, "") for column in facts)] for row in table.rows]
    kept = [i for i in range(len(columns)) if i == 0 or any(line[i] for line in lines)]
    return f"### {table.title}\n\n{table.about}\n\n" + grid([[line[i] for i in kept] for line in [columns, *lines]])


def _cells(table: Table, row: Row) -> tuple[str, str, str]:
    """Milliseconds, images/s and ratio."""
    if not row.seconds:
        return row.absent, "", ""
    speed = spread([row.images / t for t in row.seconds]) if row.images else ""
    ratios = table.ratios(row)
    is_base = any(other.base == row.name for other in table.rows)
    return spread([1000 * t for t in row.seconds]), speed, spread(ratios) if ratios else "1" if is_base else ""


def grid(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first line is its head, the first column is text."""
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    shown = []
    for first, *rest in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        shown.append(f"| {' | '.join(cells)} |")
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([shown[0], rule, *shown[1:]])


# Two runs


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, bool]:
    """Two results as a Markdown page, and whether anything got slower.

    A row is slower, or faster, when both its times and its ratios to its base lie apart in the two runs, all rounds of
    one beyond all of the other, with medians at least 5 % apart.  A busier machine moves the times and leaves the
    ratios; another version of the base moves the ratios and leaves the times.  A row without a base has its times
    alone, which may say no more than that the machine was busier: that is a question, and does not count.
    """
    lines, slower = [["", "old ms", "new ms", "new / old", "ratio to base, new / old", ""]], False
    for place, before, after, row, earlier in _pairs(old, new):
        times, verdict = _change(earlier.seconds, row.seconds)
        relative = ""
        if before.ratios(earlier) and after.ratios(row):
            cost = [[1 / r if t.ratio == "times as fast" else r for r in t.ratios(x)]
                    for t, x in ((before, earlier), (after, row))]  # fmt: skip
            relative, judged = _change(*cost)
            verdict = verdict if verdict == judged else ""
            slower |= verdict == "slower"
        elif verdict:
            verdict += "?"
        both = (spread([1000 * t for t in x.seconds]) for x in (earlier, row))
        lines.append([place, *both, times, relative, verdict])
    differs = [f"{key}: {old[key]} -> {new[key]}" for key in ("device", "versions", "commit") if old[key] != new[key]]
    missing = sorted({place for place, _, _ in _rows(old)} - {place for place, _, _ in _rows(new)})
    page = [*differs, grid(lines)] + ([f"Not measured this time: {'; '.join(missing)}"] if missing else [])
    return "\n\n".join(page) + "\n", slower


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[str, Table, Row]]:
    for section, content in result["sections"].items():
        for table in map(Table.load, content["tables"]):
            for row in table.rows:
                if row.seconds:
                    yield f"{section}: {table.title}: {row.name}", table, row


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Table, Table, Row, Row]]:
    before = {place: (table, row) for place, table, row in _rows(old)}
    for place, table, row in _rows(new):
        if place in before:
            yield place, before[place][0], table, row, before[place][1]


def _change(old: Sequence[float], new: Sequence[float]) -> tuple[str, str]:
    """new / old as median (least..most that the rounds allow), and slower, faster or nothing."""
    if min(*old, *new) <= 0:  # a difference of times, lost in noise
        return "", ""
    middle = statistics.median(new) / statistics.median(old)
    low, high = min(new) / max(old), max(new) / min(old)
    verdict = "slower" if low > 1 and middle > LEAST else "faster" if high < 1 and middle < 1 / LEAST else ""
    return f"{middle:.3g} ({low:.3g}..{high:.3g})", verdict
