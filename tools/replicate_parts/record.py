"""What is kept of all steps: replicate.json, and replicate.md made of it; both are whole at any moment."""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dist_rmd.errors import ConfigError
from dist_rmd.files import write_atomically
from tools.bench_parts.tables import Table
from tools.replicate_parts.page import page

FORMAT = 1


@dataclass
class Entry:
    """What is known of one step."""

    name: str
    title: str
    status: str = "to do"
    """to do, running, done, cut short, stopped, failed, skipped"""
    why: str = ""
    """of a step that is not done, in a few words"""
    figure: str = ""
    began: str = ""
    seconds: float = 0.0
    """over all calls"""
    commit: str = ""
    machine: str = ""
    load: str = ""
    """load average when the step ended: above the number of cores, others were at work, too"""
    commands: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    """what of it need not be done again"""
    error: str = ""
    """a traceback"""

    def show(self, tables: Iterable[Table]) -> None:
        """Add tables, or replace those of the same title."""
        for table in map(asdict, tables):
            titles = [old["title"] for old in self.tables]
            if table["title"] in titles:
                self.tables[titles.index(table["title"])] = table
            else:
                self.tables.append(table)

    def tell(self, command: str) -> None:
        """Add a command, once."""
        if command not in self.commands:
            self.commands.append(command)

    @property
    def shown(self) -> list[Table]:
        return [Table.load(tree) for tree in self.tables]


@dataclass
class Record:
    """All of it.  `places` are folders whose paths mean nothing elsewhere: path -> what stands for it."""

    folder: Path
    device: str
    images: str
    places: dict[str, str]
    machine: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> None:
        """Raises CannotCreate or WriteFailed."""
        tree = {
            "format": FORMAT,
            "device": self.device,
            "machine": self.machine,
            "images": self.images,
            "calls": self.calls,
            "steps": [asdict(entry) for entry in self.entries.values()],
        }
        tree = self._tidy(tree)
        text = json.dumps(tree, indent=1) + "\n"
        write_atomically(self.folder / "replicate.json", lambda file: file.write(text.encode()))
        write_atomically(self.folder / "replicate.md", lambda file: file.write(page(tree).encode()))

    def _tidy(self, tree: Any) -> Any:
        """The same with words in place of the folders of this machine."""
        if isinstance(tree, dict):
            return {key: self._tidy(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self._tidy(value) for value in tree]
        if isinstance(tree, str):
            for place in sorted(self.places, key=len, reverse=True):
                tree = tree.replace(place, self.places[place])
        return tree


def places(root: Path, **folders: Path | None) -> dict[str, str]:
    """`folders` by their names in capitals, and the project's, Python's and the home folder."""
    known = {path: name.upper() for name, path in folders.items() if path is not None}
    known |= {root: ".", Path(sys.prefix): "PYTHON", Path(sys.base_prefix): "PYTHON", Path.home(): "~"}
    found: dict[str, str] = {}
    for path, word in known.items():
        for spelling in {os.path.abspath(path), os.path.realpath(path)}:
            if spelling != os.sep:
                found.setdefault(spelling, word)
    return found


def read(folder: Path, device: str) -> tuple[dict[str, Entry], list[dict[str, Any]]]:
    """What earlier calls have left in `folder`.  Raises ConfigError when that is another device's, or not readable."""
    path = folder / "replicate.json"
    try:
        tree = json.loads(path.read_text())
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}): move it away, or choose another --out") from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise ConfigError(f"{path}: not written by this version: move it away, or choose another --out")
    if tree["device"] != device:
        raise ConfigError(f"{folder} holds results of --device {tree['device']}: choose another --out for {device}")
    known = {one.name for one in fields(Entry)}
    entries = [Entry(**{key: value for key, value in step.items() if key in known}) for step in tree["steps"]]
    return {entry.name: entry for entry in entries}, tree["calls"]
