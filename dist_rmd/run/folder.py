"""The folder of one run, <out>/<name>: where each of its files is, and what the small ones say.

    config.yaml env.json     the configuration of the last start, and where it was started
    run.lock                 who writes here, or wrote last
    status.json exit.json    how far the run is, and how its last start ended
    labels.npz               the labels that it learns
    metrics.jsonl tb/<stage> curves, for programs and for TensorBoard
    logs/rank<N>.log         what each rank said, warned of and died of
    <stage>/checkpoints      where a stopped stage goes on
    <stage>/artefact.pt      what a finished stage leaves
    figures/<report>.png     pictures that reports have drawn
    slurm                    scripts and logs of SLURM jobs
    suspects.csv .html       which labels are probably wrong: what report suspects found
    predictions.csv          what `predict` took images for

These names stand here alone.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from dist_rmd.config import Config
from dist_rmd.errors import NonFiniteLoss, Stopped, UserError
from dist_rmd.files import write_json

Content = TypeVar("Content")


def now() -> str:
    """The time as the files of a run folder have it: 2026-02-24T18:30:00+0100."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@dataclass(frozen=True)
class Exit:
    """How the last start of a run ended: exit.json."""

    code: int
    """the process's exit code (dist_rmd.errors), which torchrun turns into 1"""
    reason: str = ""
    """in one line"""
    rank: int = 0
    """the rank that wrote it"""
    ended: str = field(default_factory=now)
    stage: str | None = None
    """where training stood, like the next"""
    step: int | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    """of a run that is done: stage -> the key that its configuration determines"""
    forced: tuple[str, ...] = ()
    """stages that went on under another configuration than they had begun with"""
    measured_on: str | None = None
    """of a run that is done: the hash of the test images; an earlier version has not written it down"""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """what else the error had to say, such as the indices of samples"""

    @property
    def status(self) -> Literal["done", "stopped", "failed"]:
        """Whether to start the run again, in a word."""
        return "done" if self.code == 0 else "stopped" if self.is_stopped else "failed"

    @property
    def is_stopped(self) -> bool:
        """It was asked to stop, and has saved: starting again goes on."""
        return self.code == Stopped.code

    @property
    def is_diverged(self) -> bool:
        """Its loss was not finite: the same start would end the same."""
        return self.code == NonFiniteLoss.code


@dataclass(frozen=True)
class Status:
    """How far a run is: status.json."""

    stage: str
    epoch: int
    """completed ones"""
    step: int
    steps: int
    """of the stage, from its first epoch to its last"""
    seconds_left: int = 0
    """until the stage's end"""
    written: str = field(default_factory=now)


@dataclass(frozen=True)
class RunFolder:
    """The run folder at `path`, which need not exist yet."""

    path: Path

    @classmethod
    def of(cls, config: Config) -> "RunFolder":
        """That of the run with this configuration."""
        return cls(Path(config.out) / config.name)

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        """The configuration of the last start, as `sections.parse` reads it."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, machine and command of the last start."""
        return self.path / "env.json"

    @property
    def lock(self) -> Path:
        """Held by the process that writes here (dist_rmd.run.lock)."""
        return self.path / "run.lock"

    @property
    def status(self) -> Path:
        """For `read_status`."""
        return self.path / "status.json"

    @property
    def exit(self) -> Path:
        """For `read_exit`; absent while the run is under way, and where it was killed."""
        return self.path / "exit.json"

    @property
    def labels(self) -> Path:
        """A LabelView."""
        return self.path / "labels.npz"

    @property
    def metrics(self) -> Path:
        """A line for each point of the curves (dist_rmd.engine.writers)."""
        return self.path / "metrics.jsonl"

    def log(self, rank: int) -> Path:
        """What this rank said."""
        return self.path / "logs" / f"rank{rank}.log"

    def board(self, name: str) -> Path:
        """TensorBoard's folder of a stage, or of a report's figures."""
        return self.path / "tb" / name

    @property
    def figures(self) -> Path:
        """The folder of pictures that reports have drawn."""
        return picture_path(self.path, "").parent

    @property
    def suspects(self) -> tuple[Path, Path]:
        """The table of the labels that are probably wrong, and the page to decide on."""
        return self.path / "suspects.csv", self.path / "suspects.html"

    @property
    def predictions(self) -> Path:
        """What `dist-rmd predict` took images for."""
        return self.path / "predictions.csv"

    def artefact(self, stage: str) -> Path:
        """What the stage leaves when it is finished (dist_rmd.run.artefacts)."""
        return self.path / stage / "artefact.pt"

    def checkpoints(self, stage: str) -> Path:
        """The folder of the stage's checkpoints (dist_rmd.engine.checkpoint)."""
        return self.path / stage / "checkpoints"

    def places(self, stages: Iterable[str]) -> list[Path]:
        """The folders in which a run of these stages leaves files, some of them only at its end."""
        own = (place for stage in stages for place in (self.checkpoints(stage), self.board(stage)))
        return [self.path, self.log(0).parent, self.figures, *own]

    def finished(self, stage: str) -> bool:
        """The stage's artefact is here."""
        return self.artefact(stage).exists()

    def read_exit(self) -> Exit | None:
        """How the last start ended; None where none has ended, or nobody can read how."""
        content = _read(self.exit)
        known = {f.name for f in dataclasses.fields(Exit)} - {"facts"}
        own = {name: value for name, value in content.items() if name in known}
        facts = {name: value for name, value in content.items() if name not in known | {"status"}}
        return _made(Exit, {"ended": "", **own, "forced": tuple(content.get("forced", ())), "facts": facts})

    def write_exit(self, ended: Exit) -> None:
        """Write exit.json, unless it is there: of several ranks that fail, the first is the cause."""
        if self.exit.exists():
            return
        content = {name: value for name, value in dataclasses.asdict(ended).items() if value not in (None, {}, ())}
        facts = content.pop("facts", {})
        with contextlib.suppress(UserError):  # the folder itself may be what cannot be written
            write_json(self.exit, {"status": ended.status, **content, **facts})

    def read_status(self) -> Status | None:
        """How far the run is; None before its first word."""
        known = {f.name for f in dataclasses.fields(Status)}
        return _made(Status, {name: value for name, value in _read(self.status).items() if name in known})

    def write_status(self, status: Status) -> None:
        """Write status.json, for programs that watch many runs."""
        write_json(self.status, dataclasses.asdict(status))

    def read_environment(self) -> dict[str, Any]:
        """The content of env.json, empty where there is none."""
        return _read(self.environment)


def runs_in(folder: Path) -> list[Path]:
    """The run folders right below `folder`, sorted."""
    return sorted(path for path in folder.glob("*") if RunFolder(path).config.exists())


def picture_path(folder: Path, name: str) -> Path:
    """Where the picture `name` of the run or the sweep in `folder` is."""
    return folder / "figures" / f"{name}.png"


def slurm_folder(folder: Path) -> Path:
    """Where scripts and logs of SLURM jobs are, of the run or the sweep in `folder`."""
    return folder / "slurm"


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _made(kind: type[Content], content: Mapping[str, Any]) -> Content | None:
    """The dataclass with this content; None where something is missing that it needs."""
    try:
        return kind(**content)
    except TypeError:
        return None
