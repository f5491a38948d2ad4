"""Figures of earlier steps that later ones plan with."""

from tools.replicate_parts.goals import speed
from tools.replicate_parts.record import Record


def rate(record: Record, title: str, row: str) -> float | None:
    """Images/s of a row, if it was measured."""
    for entry in record.entries.values():
        for table in entry.shown:
            for one in table.rows if table.title == title else ():
                if one.name == row and (found := speed(one)) is not None:
                    return found
    return None
