"""Lays a sweep out as tables, with each cell beside its published number and its baseline."""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from dist_rmd.published import Published, published
from dist_rmd.sweep.results import Cell, Sweep


@dataclass(frozen=True)
class Block:
    """The cells of one table: they share their values on the axes that come before the axis of the rows."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    """values on the axes that come after the axis of the rows"""
    cells: Mapping[tuple[str, tuple[str, ...]], Cell]
    """cells by row and column; combinations that the grid leaves out are missing"""


class Comparison:
    """A sweep as tables: rows are methods; the axes after the method are columns, the axes before it are tables."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        shown = [axis for axis, values in sweep.axes.items() if len(values) > 1 or axis == "method"]
        shown = shown or list(sweep.axes)[-1:]
        self.row_axis = "method" if "method" in shown else shown[max(0, len(shown) - 3)]
        split = shown.index(self.row_axis)
        self.block_axes, self.column_axes = shown[:split], shown[split + 1 :]
        fixed = [axis for axis in sweep.axes if axis not in shown]
        self.fixed = ", ".join(named(axis, sweep.axes[axis][0]) for axis in fixed)

    @cached_property
    def blocks(self) -> list[Block]:
        """The tables, in order of display."""
        cells: dict[tuple[str, ...], dict[tuple[str, tuple[str, ...]], Cell]] = defaultdict(dict)
        for cell in self.sweep.cells.values():
            values = self.values(cell)
            place = values[self.row_axis], tuple(values[axis] for axis in self.column_axes)
            cells[tuple(values[axis] for axis in self.block_axes)][place] = cell
        blocks = []
        for outer in self._places(self.block_axes):
            if inside := cells.get(outer):
                taken, columns = ({place[side] for place in inside} for side in (0, 1))
                names = [named(axis, value) for axis, value in zip(self.block_axes, outer, strict=True)]
                blocks.append(
                    Block(
                        ", ".join(filter(None, [*names, self.fixed])),
                        tuple(row for row in self.sweep.axes[self.row_axis] if row in taken),
                        tuple(column for column in self._places(self.column_axes) if column in columns),
                        inside,
                    )
                )
        return blocks

    def _places(self, axes: Sequence[str]) -> list[tuple[str, ...]]:
        return list(itertools.product(*(self.sweep.axes[axis] for axis in axes)))

    def values(self, cell: Cell) -> dict[str, str]:
        """Name of each axis -> the cell's value on this axis."""
        return dict(zip(self.sweep.axes, cell.coordinates, strict=True))

    def heading(self, column: tuple[str, ...], shown: str = "accuracy") -> tuple[str, ...]:
        """Values of a column as text; if all are numbers, with the names of their axes: `rho1 0.5`, `rho2 0.25`.

        shown: the heading where the axes after the method have no value to tell.
        """
        if all(map(_is_number, column)):
            return tuple(map(named, self.column_axes, column)) or (shown,)
        return column

    def published(self, cell: Cell) -> Published | None:
        """The number that the paper prints for the cell; None if there is none."""
        if self.sweep.published is None or self.sweep.table is None:
            return None
        printed = {axis: self.sweep.names.get(value, value) for axis, value in self.values(cell).items()}
        return published(self.sweep.published, self.sweep.table, printed)

    def difference(self, cell: Cell) -> float | None:
        """Mean accuracy of the last epoch minus the published number; None if either is missing."""
        printed = self.published(cell)
        if printed is None or not cell.finished:
            return None
        return statistics.mean(outcome.last for outcome in cell.finished.values()) - printed.accuracy

    def baseline(self, cell: Cell) -> Cell | None:
        """The cell of the method that this cell's method is compared with, all other axes equal; None if missing."""
        values = self.values(cell)
        method = self.sweep.compare.get(values[self.row_axis])
        if method is None:
            return None
        return self.sweep.cells.get(tuple((values | {self.row_axis: method}).values()))

    def gains(self, cell: Cell, which: Literal["last", "held_out"] = "last") -> list[float]:
        """Accuracy of the last epoch minus the baseline's, for every seed that both have finished.

        which: the outcomes' field that is compared.
        """
        baseline = self.baseline(cell)
        before = baseline.finished if baseline else {}
        both = [(one, before[seed]) for seed, one in cell.finished.items() if seed in before]
        pairs = [(getattr(one, which), getattr(other, which)) for one, other in both]
        return [ours - theirs for ours, theirs in pairs if None not in (ours, theirs)]

    def published_gain(self, cell: Cell) -> float | None:
        """Published number of the cell minus the baseline's; None if either is missing."""
        baseline = self.baseline(cell)
        printed, before = self.published(cell), self.published(baseline) if baseline else None
        return printed.accuracy - before.accuracy if printed and before else None

    @cached_property
    def notes(self) -> list[str]:
        """Doubts about published numbers, each once, in the order of their numbers."""
        printed = [self.published(cell) for cell in self.sweep.cells.values()]
        return list(dict.fromkeys(number.note for number in printed if number and number.note))

    @cached_property
    def published_name(self) -> str:
        """Heading of the published numbers; it says so if the sweep's recipe differs from the published recipe."""
        return "published, full size" if any(cell.changed for cell in self.sweep.cells.values()) else "published"


def named(axis: str, value: str) -> str:
    """A value as text that stands alone: a number with the name of its axis before it."""
    return f"{axis} {value}" if _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
