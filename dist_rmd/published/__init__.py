"""Accuracies that papers print, one a line in <paper>.csv; reports set them beside this package's."""

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple

from dist_rmd.errors import ConfigError


class Published(NamedTuple):
    """A printed number."""

    accuracy: float
    """test accuracy in percent"""
    note: str
    """a peculiarity of the number; "" for most"""


def published(paper: str, table: str, coordinates: Mapping[str, str]) -> Published | None:
    """The accuracy that `table` ("1", "2", ...) of `paper` (rmdnet, modul) prints for a cell; None for an empty cell.

    Every coordinate, such as {"dataset": "cifar10", "rate": "0.2"}, that is also a column of the paper's file must
    agree, numbers as numbers.  Raises ConfigError when that leaves several lines, or there is no such paper.
    """
    found = [
        line
        for line in _lines(paper)
        if line["table"] == table and all(_same(line[a], value) for a, value in coordinates.items() if a in line)
    ]
    if len(found) > 1:
        raise ConfigError(f"table {table} of {paper} has {len(found)} numbers for {dict(coordinates)}: add an axis")
    return Published(float(found[0]["accuracy"]), found[0]["note"]) if found else None


@cache
def _lines(paper: str) -> list[dict[str, str]]:
    files = {file.name.removesuffix(".csv"): file for file in resources.files(__package__).iterdir()}
    if paper not in files or not files[paper].name.endswith(".csv"):
        known = sorted(name for name, file in files.items() if file.name.endswith(".csv"))
        raise ConfigError(f"no published numbers of {paper!r}: choose from {', '.join(known)}")
    return list(csv.DictReader(files[paper].read_text(encoding="utf-8").splitlines()))


def _same(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other
