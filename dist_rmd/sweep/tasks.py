"""The tasks of a sweep: one run for each cell, preceded by the stages that several cells share."""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dist_rmd.config import Config, sections
from dist_rmd.data.prepared.beton import Dataset, open_dataset
from dist_rmd.distributed.processes import World, detect
from dist_rmd.errors import UserError
from dist_rmd.pipeline import resolved
from dist_rmd.pipeline.resolved import ResolvedRun
from dist_rmd.run import artefacts, start
from dist_rmd.run.folder import RunFolder, Status
from dist_rmd.run.lock import is_locked
from dist_rmd.sweep.grid import GridRun

State = Literal["done", "failed", "diverged", "busy", "open"]
"""diverged: the loss was not finite, and would be so again.  busy: another process runs the task.  open: not begun, or
stopped, and to be resumed."""


@dataclass(frozen=True, eq=False)
class RunSpec:
    """One start of `python -m dist_rmd.train`."""

    file: Path
    overrides: tuple[str, ...]
    config: Config
    """the resolved configuration of file and overrides"""
    keys: Mapping[str, str]
    """stage -> the key of its artefact"""
    test: str
    """hash of the test images"""
    needs: "RunSpec | None"
    """the task that must be finished first, if any"""
    serves: bool
    """trains a shared prerequisite; finished as soon as its artefacts exist, whoever made them"""

    @property
    def folder(self) -> RunFolder:
        """The run folder of this task."""
        return RunFolder.of(self.config)

    @property
    def name(self) -> str:
        """The run's name without the sweep's."""
        return self.config.name.partition("/")[2]

    @property
    def log(self) -> Path:
        """The file with the output of the process."""
        sweep, _, name = self.config.name.partition("/")
        return Path(self.config.out) / sweep / "logs" / f"{name}.log"

    @property
    def state(self) -> State:
        """The state of the task by the files on the disk."""
        if self._is_done:
            return "done"
        if is_locked(self.folder):
            return "busy"
        ended = self.folder.read_exit()  # none: not begun, running, or killed
        if ended and ended.status == "failed":
            return "diverged" if ended.is_diverged else "failed"
        return "open"

    @property
    def status(self) -> Status | None:
        """Progress of the training; None before status.json exists."""
        return self.folder.read_status()

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped on request, after a checkpoint."""
        ended = self.folder.read_exit()
        return ended is not None and ended.is_stopped

    @property
    def reason(self) -> str:
        """Why the task is not finished, in one line."""
        if self.needs and self.needs.state != "done":
            return f"it starts from {self.needs.name}"
        last = ""
        with contextlib.suppress(OSError):
            last = next((line for line in reversed(self.log.read_text(errors="replace").splitlines()) if line), "")
        if last.startswith("error: "):  # refused before there was a run folder
            return last.removeprefix("error: ")
        ended = self.folder.read_exit()
        return ended.reason if ended else f"it ended without an outcome; its last words: {last or 'none'} ({self.log})"

    @property
    def _is_done(self) -> bool:
        if self.serves:
            out = Path(self.config.out)
            return all(artefacts.is_whole(artefacts.shared_path(out, *pair), pair[1]) for pair in self.keys.items())
        return start.finished(self.folder, self.keys, self.test)


def with_needs(tasks: Iterable[RunSpec]) -> list[RunSpec]:
    """The tasks and their prerequisites, each once, every prerequisite before the tasks that need it."""
    ordered: dict[RunSpec, None] = {}
    for task in tasks:
        ordered |= dict.fromkeys([*with_needs([task.needs] if task.needs else []), task])
    return list(ordered)


class Planner:
    """Makes the tasks of the sweep `name`, each on `ranks` processes.  overrides: key=value that win over the grid.

    device: the device of each process, if the tasks run on other machines.
    A dataset is opened once, and a stage that several cells share is one task.
    """

    def __init__(self, name: str, overrides: tuple[str, ...], ranks: int, device: torch.device | None = None):
        self.name, self.overrides, self.ranks, self.device = name, overrides, ranks, device
        self.datasets: dict[str, Dataset] = {}
        self.shared: dict[str, RunSpec] = {}

    def task(self, cell: GridRun, name: str) -> RunSpec:
        """The task of one cell, in the run folder `name` of the sweep's.

        Raises ConfigError or DataError when it cannot work, and when the folder holds another run.
        """
        overrides = (*cell.overrides(), *self.overrides)
        planned = self._plan(cell.file, (*overrides, f"name={self.name}/{name}"), cell)
        before = tuple(planned.stages)[:-1]
        needs = self._before(cell, overrides, planned, before) if before else None
        words, test = (*overrides, f"name={self.name}/{name}"), planned.dataset.hashes["test"]
        return RunSpec(cell.file, words, planned.config, planned.keys, test, needs, False)

    def _before(
        self, cell: GridRun, overrides: tuple[str, ...], planned: ResolvedRun, stages: tuple[str, ...]
    ) -> RunSpec:
        """The task that trains the stages before the last, the same for all cells of which they have the same keys."""
        keys = {stage: planned.keys[stage] for stage in stages}
        name = f"{self.name}/{stages[-1]}-{keys[stages[-1]][:8]}"
        if name not in self.shared:
            overrides = (*overrides, f"stages={json.dumps(stages)}", f"name={name}")
            config, test = self._plan(cell.file, overrides, cell).config, planned.dataset.hashes["test"]
            # One teacher may serve several divisions: whoever trains it, the others wait for it.
            needs = self._before(cell, overrides, planned, stages[:-1]) if len(stages) > 1 else None
            self.shared[name] = RunSpec(cell.file, overrides, config, keys, test, needs, True)
        return self.shared[name]

    def _plan(self, file: Path, overrides: tuple[str, ...], cell: GridRun) -> ResolvedRun:
        try:
            config = sections.parse(file, overrides)
            path = config.data.path
            if path not in self.datasets:
                self.datasets[path] = open_dataset(Path(path))
            device = self.device or detect(config.device).device
            # Keys can depend on how many ranks there will be, and of what kind.
            world = World(0, self.ranks, 0, self.ranks, device)
            return resolved.check(config, dataset=self.datasets[path], world=world)
        except UserError as error:
            raise type(error)(f"{cell.name}: {error}") from None
