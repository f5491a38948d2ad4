"""sweep.json in a sweep's folder: the planned runs, for reports."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dist_rmd.config import Config, differences, sections, to_dict
from dist_rmd.files import write_json
from dist_rmd.sweep.grid import Grid, GridRun


def record_path(folder: Path) -> Path:
    """The path of the record of the sweep in `folder`; a folder with a record is a sweep's folder."""
    return folder / "sweep.json"


def write(
    folder: Path, grid: Grid, configs: Mapping[str, Config], overrides: Sequence[str], datasets: Mapping[str, str]
) -> None:
    """Write <folder>/sweep.json: all cells of `grid`, whether they are run now or not, and those of earlier seeds.

    configs: place of a cell -> the configuration it is run with, for cells that are run now; the others would be run
    as the grid says, with `overrides`.  datasets: data.path -> the name of the dataset there, as far as is known.
    """
    recipes: dict[str, dict[str, Any]] = {}
    for cell in {cell.place: cell for cell in grid.cells}.values():
        used = configs.get(cell.place) or sections.parse(cell.file, [*cell.overrides(), *overrides])
        recipes[cell.place] = {"changed": _changed(cell, used, datasets), "settings": _settings(cell, used, grid)}
    cells = {cell.name: _entry(cell, recipes[cell.place]) for cell in grid.cells}
    earlier = read(folder)
    if earlier.get("axes") == grid.axes:
        kept = [GridRun(old["coordinates"], old["seed"], Path(), {}) for old in earlier["cells"]]
        cells = {cell.name: _entry(cell, recipes[cell.place]) for cell in kept if cell.place in recipes} | cells
    content = {
        "grid": grid.name,
        "title": grid.title,
        "published": grid.published.get("paper"),
        "table": grid.published.get("table"),
        "names": grid.names,
        "overrides": list(overrides),
        "axes": grid.axes,
        "seeds": sorted({cell["seed"] for cell in cells.values()}),
        "compare": grid.compare,
        "search": grid.search and asdict(grid.search),
        "cells": list(cells.values()),
    }
    write_json(record_path(folder), content)


def read(folder: Path) -> dict[str, Any]:
    """The content of <folder>/sweep.json, empty where there is none."""
    try:
        return json.loads(record_path(folder).read_text())
    except (OSError, ValueError):
        return {}


def _changed(cell: GridRun, used: Config, datasets: Mapping[str, str]) -> list[str]:
    """`key: the grid's -> used` for all that makes the run another one.

    Where a dataset lies does not matter, but what it is does: the grid's is named like its folder, data/cifar10, or
    data/cifar10-open where it has an open set.
    """
    own = sections.parse(cell.file, cell.overrides())
    meant = Path(own.data.path).name.removesuffix("-open")
    found = datasets.get(used.data.path, meant)
    other = [f"dataset: {meant} -> {found}"] if found != meant else []
    return other + [str(change) for change in differences(own.leaves, used.leaves) if change.role.is_recipe]


def _settings(cell: GridRun, used: Config, grid: Grid) -> dict[str, Any]:
    """key -> value that tells the cell's runs from those of others: what the grid sets but for its seeds and search."""
    apart = {"seed", "noise.seed", grid.search.key if grid.search else ""}
    return {key: value_at(to_dict(used), key) for key in cell.settings if key not in apart}


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    found: Any = tree
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _entry(cell: GridRun, recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {"run": cell.name, "coordinates": dict(cell.coordinates), "seed": cell.seed, **recipe}
