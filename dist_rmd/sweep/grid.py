"""A grid of runs: axes whose values set keys of a configuration, such as configs/rmdnet/table1.yaml.

    title: Test accuracy with and without RMDNet (RMDNet, Table 1)
    folder: table1                          # of the runs, within `out` (the file's name without one)
    published: {paper: rmdnet, table: 1}    # the numbers to compare with; names: {our value: the one printed there}
    seeds: [0, 1, 2]                        # each sets `seed` and `noise.seed`
    set: {simsiam.seed: 0}                  # keys of all runs
    axes:                                   # every combination is a cell
      dataset:
        cifar10: {config: cifar10.yaml}     # the file that the keys are added to, beside this one
      method:
        CE: {stages: [classifier]}
        CE+RMDNet: {}
    rules:                                  # settings of some cells only; later rules win
      - {if: {dataset: cifar10, method: [CE, CE+RMDNet]}, set: {relation.k: 0.1}}
    skip:                                   # combinations that are left out
      - {dataset: cifar10, method: CE}
    compare: {CE+RMDNet: CE}                # rows of a table that are a gain over others
    search:                                 # `dist-rmd sweep --search` finds this key's value for each of these cells
      {key: relation.k, values: [0.01, 0.1, 1], holdout: 0.1, seeds: [0], if: {method: CE+RMDNet}}
"""

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dist_rmd.config import Fraction, read_yaml
from dist_rmd.config.key_types import NonNegativeInt, fit
from dist_rmd.errors import ConfigError
from dist_rmd.sweep import choice
from dist_rmd.sweep.choice import in_words
from dist_rmd.text.plain_yaml import spelled

LONGEST = 200
"""bytes of a run's name, to which file systems, of 255, let others be added"""
KEYS = ("title", "folder", "published", "seeds", "config", "set", "axes", "rules", "skip", "compare", "search")


@dataclass(frozen=True, eq=False)
class GridRun:
    """One run of a grid."""

    coordinates: Mapping[str, str]
    """axis -> value, in the grid's order"""
    seed: int
    file: Path
    """the configuration that `settings` are added to"""
    settings: Mapping[str, Any]
    """key -> value"""

    @property
    def place(self) -> str:
        """The coordinates as part of a path."""
        return "-".join(map(folder_name, self.coordinates.values()))

    @property
    def name(self) -> str:
        """The run's folder within the sweep's."""
        return f"{self.place}-seed{self.seed}"

    def overrides(self) -> list[str]:
        """The settings as key=value."""
        return [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]

    def having(self, settings: Mapping[str, Any]) -> "GridRun":
        """The same run with further settings, which override its own."""
        return replace(self, settings={**self.settings, **settings})


@dataclass(frozen=True)
class Search:
    """A search for the best value of a key on held-out labels (RMDNet prints a range of K, not the K of each cell)."""

    key: str
    values: Sequence[Any]
    holdout: float = 0.1
    """fraction of the labels that is held out of training and measured"""
    seeds: Sequence[int] = (0,)
    condition: Mapping[str, Any] = field(default_factory=dict)
    """condition on the cells that are searched (all cells when empty)"""


@dataclass(frozen=True)
class Grid:
    """All runs of a grid, and how reports show them."""

    name: str
    folder: str
    """folder of the runs within `out`; not the file's name where two papers each have a table1"""
    title: str
    published: Mapping[str, str]
    """paper and table of the published numbers; empty without published numbers"""
    names: Mapping[str, str]
    """value of an axis -> what the paper calls it, where that is not the same"""
    axes: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    compare: Mapping[str, str]
    search: Search | None
    cells: Sequence[GridRun]
    """seeds of one cell follow one another"""

    def only(self, chosen: Mapping[str, Any]) -> "Grid":
        """The grid with only the chosen values of some axes.  Raises ConfigError for an unknown axis or value."""
        choice.check(chosen, self.axes, self.name)
        axes = choice.narrowed(self.axes, chosen)
        cells = [cell for cell in self.cells if choice.holds(chosen, cell.coordinates)]
        if not cells:
            raise ConfigError(f"{self.name}: there is no cell at {in_words(chosen)}")
        return replace(self, axes=axes, cells=cells)


def folder_name(value: str) -> str:
    """The part of a path for a value of an axis.  Different values may share a part: see `_check_folders`."""
    return re.sub(r"[^\w.+=]+", "_", value).strip("_")


def load(file: Path, seeds: Sequence[int] | None = None) -> Grid:
    """Read a grid.  seeds: other ones than the file's.  Raises ConfigError, which names what is wrong."""
    tree = read_yaml(file)
    if unknown := tree.keys() - set(KEYS):
        raise ConfigError(f"{file}: unknown key {min(unknown)!r}; a grid has {', '.join(KEYS)}")
    for key in ("set", "compare", "published", "axes"):
        if not isinstance(tree.get(key) or {}, dict):
            raise ConfigError(f"{file}: {key} must be `name: value` lines, got {tree[key]!r}")
    axes = {spelled(axis): _named(file, axis, values) for axis, values in (tree.get("axes") or {}).items()}
    if not axes:
        raise ConfigError(f"{file}: a grid needs axes, each with at least one value")
    seeds = fit(f"{file}: seeds", tree.get("seeds", [0]) if seeds is None else seeds, tuple[NonNegativeInt, ...])
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"{file}: seeds must be different whole numbers from 0 on, got {list(seeds)}")
    names = {axis: list(values) for axis, values in axes.items()}
    rules, skip = tree.get("rules", []), tree.get("skip", [])
    for rule in rules:
        if not isinstance(rule, dict) or rule.keys() != {"if", "set"}:
            raise ConfigError(f"{file}: a rule is {{if: {{axis: value}}, set: {{key: value}}}}, got {rule}")
        choice.check(rule["if"], names, str(file))
    for condition in skip:
        choice.check(condition, names, str(file))
    cells = []
    for values in itertools.product(*names.values()):
        coordinates = dict(zip(names, values, strict=True))
        if any(choice.holds(condition, coordinates) for condition in skip):
            continue
        settings = dict(tree.get("set", {}))
        config = tree.get("config")
        for axis, value in coordinates.items():
            settings |= axes[axis][value]
            config = settings.pop("config", config)
        for rule in rules:
            settings |= rule["set"] if choice.holds(rule["if"], coordinates) else {}
        if config is None:
            raise ConfigError(f"{file}: no `config` for {in_words(coordinates)}, the file that the keys are added to")
        for seed in seeds:  # what the grid itself says of seeds wins
            seeded = {"seed": seed, "noise.seed": seed, **settings}
            cells.append(GridRun(coordinates, seed, file.parent / config, seeded))
    _check_folders(file, cells)
    compare = {spelled(method): spelled(baseline) for method, baseline in tree.get("compare", {}).items()}
    choice.check({"method": [*compare, *compare.values()]} if compare else {}, names, f"{file}: compare")
    printed = dict(tree.get("published", {}))
    called = {spelled(ours): spelled(theirs) for ours, theirs in printed.pop("names", {}).items()}
    if unknown := called.keys() - {value for values in names.values() for value in values}:
        raise ConfigError(f"{file}: published.names: no axis has {min(unknown)!r}")
    published = {key: spelled(value) for key, value in printed.items()}
    title = spelled(tree.get("title", file.stem))
    folder, found = spelled(tree.get("folder", file.stem)), _search(file, tree, names)
    return Grid(file.stem, folder, title, published, called, names, list(seeds), compare, found, cells)


def _named(file: Path, axis: Any, values: Any) -> dict[str, dict[str, Any]]:
    """The values of one axis: name -> settings."""
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{file}: axis {axis} must be `value: {{key: setting}}` lines, got {values!r}")
    if wrong := [value for value, settings in values.items() if not isinstance(settings, dict | None)]:
        raise ConfigError(f"{file}: {axis} {wrong[0]} must set keys ({{}} for none), got {values[wrong[0]]!r}")
    return {spelled(value): settings or {} for value, settings in values.items()}


def _check_folders(file: Path, cells: Sequence[GridRun]) -> None:
    """Raise ConfigError unless every cell has a folder of its own."""
    places: dict[str, Mapping[str, str]] = {}
    for cell in cells:
        other = places.setdefault(cell.place, cell.coordinates)
        if other != cell.coordinates:
            raise ConfigError(
                f"{file}: {in_words(other)} and {in_words(cell.coordinates)} would share the folder {cell.name}: "
                "rename one of them by more than blanks, brackets and other signs"
            )
        if nameless := [value for value in cell.coordinates.values() if not folder_name(value)]:
            raise ConfigError(f"{file}: {nameless[0]!r} has no letter or digit to make a folder's name of")
        if len(os.fsencode(cell.name)) > LONGEST:
            where = in_words(cell.coordinates)
            raise ConfigError(f"{file}: {where}: longer than the name of a folder may be, {LONGEST}")


def _search(file: Path, tree: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> Search | None:
    if "search" not in tree:
        return None
    content = dict(tree["search"])
    condition = content.pop("if", {})
    for key, hint in {"values": tuple[Any, ...], "holdout": Fraction, "seeds": tuple[NonNegativeInt, ...]}.items():
        if key in content:
            content[key] = fit(f"{file}: search.{key}", content[key], hint)
    choice.check(condition, names, str(file))
    try:
        found = Search(condition=condition, **content)
    except TypeError as error:
        raise ConfigError(f"{file}: search has key, values, holdout, seeds and if ({error})") from None
    if len(set(map(folder_name, map(spelled, found.values)))) < len(found.values):
        raise ConfigError(f"{file}: search: values must be different ones, got {list(found.values)}")
    if not found.values or not found.holdout:
        raise ConfigError(f"{file}: search needs values to try, and a holdout between 0 and 1")
    return found
