"""What one H100 is to show (docs/performance.md), and what was measured."""

import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tools.bench_parts.tables import Row, Table, grid, short

OURS = r"ours, tricks on.*"


@dataclass(frozen=True)
class Goal:
    """One figure: of the row that comes nearest to it, of those whose name fits, in the table of this title."""

    what: str
    goal: str
    table: str
    row: str
    figure: Callable[[Row], float | None]
    unit: str
    reached: Callable[[float], bool]
    highest: bool = True


def speed(row: Row) -> float | None:
    """Images per second, the median."""
    return statistics.median(row.images / s for s in row.seconds) if row.images and row.seconds else None


def waiting(row: Row) -> float | None:
    """Per cent of a step: "0.3 (2%)" -> 2."""
    found = re.search(r"\((\d+)%\)", row.facts.get("data wait", ""))
    return float(found[1]) if found else None


def first(row: Row) -> float | None:
    """Seconds from the start of a training to its first steps."""
    found = row.facts.get("first 50 steps after")
    return float(found.removesuffix(" s")) if found else None


STEP = "A step of SimSiam, batch"
GOALS = (
    Goal("SimSiam, batch 512", ">= 40,000 images/s", f"{STEP} 512", OURS, speed, "images/s", lambda x: x >= 40_000),
    Goal("SimSiam, batch 64", ">= 20,000 images/s", f"{STEP} 64", OURS, speed, "images/s", lambda x: x >= 20_000),
    Goal("CE + RGRL, batch 512", ">= 55,000 images/s", "RGRL beside CE, batch 512", r"CE \+ RGRL.*", speed,
         "images/s", lambda x: x >= 55_000),
    Goal("waiting for data, SimSiam, batch 512", "< 2 %", "Where the time of a step goes, batch 512", OURS, waiting,
         "%", lambda x: x < 2, highest=False),
    Goal("start of SimSiam, warm caches", "< 15 s", "Test images, knn_top1, in per cent", "SimSiam", first,
         "s", lambda x: x < 15, highest=False),
)  # fmt: skip


def against(device: str, steps: Sequence[Any]) -> str:
    """Goals beside figures as a Markdown table; nothing for CPUs, which have none."""
    if device != "cuda":
        return ""
    tables = [Table.load(table) for step in steps for table in step["tables"]]
    lines = [["", "goal", "here", ""]]
    for goal in GOALS:
        figures = list(_figures(goal, tables))
        if not figures:
            lines.append([goal.what, goal.goal, "not measured", ""])
            continue
        best = (max if goal.highest else min)(figures)
        lines.append([goal.what, goal.goal, f"{short(best)} {goal.unit}", "yes" if goal.reached(best) else "no"])
    return grid(lines)


def _figures(goal: Goal, tables: Sequence[Table]) -> Iterator[float]:
    for table in tables:
        for row in table.rows if table.title == goal.table else ():
            if re.fullmatch(goal.row, row.name) and (figure := goal.figure(row)) is not None:
                yield figure
