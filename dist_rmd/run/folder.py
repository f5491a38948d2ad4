"""The run folder, <out>/<name>: paths of all its files, and the contents of exit.json and status.json.

    config.yaml env.json     the configuration of the last start; its command, versions and host
    run.lock                 the process that writes here, or wrote last
    status.json exit.json    how far training is, and how the last start ended
    labels.npz               the training labels
    metrics.jsonl tb/<stage> curves, for programs and for TensorBoard
    trackers/<tracker>.id    the run's id in Weights & Biases or MLflow (log.also), beside what these keep there
    logs/rank<N>.log         everything that each rank printed, warned of and died of
    <stage>/checkpoints      from which a stopped stage resumes
    <stage>/artefact.pt      the result of a finished stage
    figures/<report>.png     pictures of reports
    slurm                    scripts and logs of SLURM jobs
    suspects.csv .html       suspect labels, found by `report suspects`
    probabilities.npz        the probability of each class for each image, by `report suspects`
    cleaned.csv              the labels that it proposes to train on, without the images whose class is not clear
    folds/<part>-of-<parts>  runs of their own for it: classifiers that have not seen a part of the images
    predictions.csv          classes of new images, found by `predict`
    export/                  networks for other programs, written by `export`

No other module spells these names; a test sees to it.
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
from dist_rmd.files import write_json, write_text

Content = TypeVar("Content")


def now() -> str:
    """The current time as it is written in a run folder: 2026-02-24T18:30:00+0100."""
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
    """stage and step that training had reached"""
    step: int | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    """of a finished run: stage -> artefact key that the configuration determines"""
    forced: tuple[str, ...] = ()
    """stages that were resumed with --force under another configuration than they began with"""
    measured_on: str | None = None
    """of a finished run: hash of the test images; None in files of earlier versions"""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """further facts of the error, such as the indices of samples"""

    @property
    def status(self) -> Literal["done", "stopped", "failed"]:
        """The outcome in one word."""
        return "done" if self.code == 0 else "stopped" if self.is_stopped else "failed"

    @property
    def is_stopped(self) -> bool:
        """Whether the run was stopped on request, after a checkpoint: starting it again resumes."""
        return self.code == Stopped.code

    @property
    def is_diverged(self) -> bool:
        """Whether the loss was NaN or infinite: the same start would end in the same way."""
        return self.code == NonFiniteLoss.code


@dataclass(frozen=True)
class Status:
    """How far training is: status.json."""

    stage: str
    epoch: int
    """number of completed epochs"""
    step: int
    steps: int
    """number of steps of the whole stage"""
    seconds_left: int = 0
    """estimate until the end of the stage"""
    written: str = field(default_factory=now)


@dataclass(frozen=True)
class RunFolder:
    """The run folder at `path`, which need not exist yet."""

    path: Path

    @classmethod
    def of(cls, config: Config) -> "RunFolder":
        """The run folder of this configuration."""
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
        """The file that the writing process locks (dist_rmd.run.lock)."""
        return self.path / "run.lock"

    @property
    def status(self) -> Path:
        """The file behind `read_status`."""
        return self.path / "status.json"

    @property
    def exit(self) -> Path:
        """The file behind `read_exit`; absent while the run trains, and after a kill."""
        return self.path / "exit.json"

    @property
    def labels(self) -> Path:
        """The training labels, saved by `LabelView.save`."""
        return self.path / "labels.npz"

    @property
    def metrics(self) -> Path:
        """Training curves, one JSON line for each point (dist_rmd.engine.writers)."""
        return self.path / "metrics.jsonl"

    def log(self, rank: int) -> Path:
        """The log of one rank."""
        return self.path / "logs" / f"rank{rank}.log"

    @property
    def boards(self) -> Path:
        """TensorBoard's folder of the whole run."""
        return self.path / "tb"

    def board(self, name: str) -> Path:
        """The TensorBoard folder of a stage, or of the figures of reports."""
        return self.boards / name

    @property
    def trackers(self) -> Path:
        """The folder for files of the trackers of `log.also`."""
        return self.path / "trackers"

    @property
    def figures(self) -> Path:
        """The folder of pictures of reports."""
        return picture_path(self.path, "").parent

    def evaluation(self, stage: str) -> Path:
        """The picture of the stage's confusion matrix and calibration."""
        return picture_path(self.path, f"evaluation-{stage}")

    @property
    def suspects(self) -> tuple[Path, Path]:
        """The table of suspect labels, and the page on which to decide about them."""
        return self.path / "suspects.csv", self.path / "suspects.html"

    @property
    def predictions(self) -> Path:
        """The table of the classes that `dist-rmd predict` found for images."""
        return self.path / "predictions.csv"

    @property
    def exported(self) -> Path:
        """The folder of networks as `dist-rmd export` writes them for other programs."""
        return self.path / "export"

    @property
    def probabilities(self) -> Path:
        """The probabilities of the classes that `report suspects` found, which stage relabel reads."""
        return self.path / "probabilities.npz"

    @property
    def cleaned(self) -> Path:
        """The table of the labels to train on if nobody decides."""
        return self.path / "cleaned.csv"

    @property
    def folds(self) -> Path:
        """The folder of the runs whose classifiers have not seen a part of the images (dist_rmd.pipeline.folds)."""
        return self.path / "folds"

    def artefact(self, stage: str) -> Path:
        """The result of the finished stage (dist_rmd.run.artefacts)."""
        return self.path / stage / "artefact.pt"

    def checkpoints(self, stage: str) -> Path:
        """The folder of the stage's checkpoints (dist_rmd.engine.checkpoint)."""
        return self.path / stage / "checkpoints"

    def places(self, stages: Iterable[str]) -> list[Path]:
        """All folders that a run of these stages writes to, some of them only at its end."""
        own = (place for stage in stages for place in (self.checkpoints(stage), self.board(stage)))
        return [self.path, self.log(0).parent, self.figures, *own]

    def finished(self, stage: str) -> bool:
        """Whether the artefact of the stage is here."""
        return self.artefact(stage).exists()

    def read_exit(self) -> Exit | None:
        """Read exit.json; None when there is no readable file."""
        content = _read(self.exit)
        known = {f.name for f in dataclasses.fields(Exit)} - {"facts"}
        own = {name: value for name, value in content.items() if name in known}
        facts = {name: value for name, value in content.items() if name not in known | {"status"}}
        return _made(Exit, {"ended": "", **own, "forced": tuple(content.get("forced", ())), "facts": facts})

    def write_exit(self, ended: Exit) -> None:
        """Write exit.json, unless it exists: when several ranks fail, the first failure is the cause."""
        if self.exit.exists():
            return
        content = {name: value for name, value in dataclasses.asdict(ended).items() if value not in (None, {}, ())}
        facts = content.pop("facts", {})
        with contextlib.suppress(UserError):  # the folder itself may be what cannot be written
            write_json(self.exit, {"status": ended.status, **content, **facts})

    def read_status(self) -> Status | None:
        """Read status.json; None when there is no readable file."""
        known = {f.name for f in dataclasses.fields(Status)}
        return _made(Status, {name: value for name, value in _read(self.status).items() if name in known})

    def write_status(self, status: Status) -> None:
        """Write status.json, for programs that watch many runs."""
        write_json(self.status, dataclasses.asdict(status))

    def read_tracker_id(self, tracker: str) -> str | None:
        """The id that the tracker gave this run; None when there is none yet."""
        try:
            return self._tracker_id(tracker).read_text().strip() or None
        except FileNotFoundError:
            return None

    def write_tracker_id(self, tracker: str, identity: str) -> None:
        """Keep the tracker's id of this run: a later start goes on under it."""
        write_text(self._tracker_id(tracker), f"{identity}\n")

    def _tracker_id(self, tracker: str) -> Path:
        return self.trackers / f"{tracker}.id"

    def read_environment(self) -> dict[str, Any]:
        """Read env.json; empty when there is no readable file."""
        return _read(self.environment)


def runs_in(folder: Path) -> list[Path]:
    """The run folders right below `folder`, sorted."""
    return sorted(path for path in folder.glob("*") if RunFolder(path).config.exists())


def picture_path(folder: Path, name: str) -> Path:
    """The path of the picture `name` in the folder of a run or of a sweep."""
    return folder / "figures" / f"{name}.png"


def slurm_folder(folder: Path) -> Path:
    """The folder of scripts and logs of SLURM jobs, for the run or the sweep in `folder`."""
    return folder / "slurm"


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty when the file is missing or broken."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _made(kind: type[Content], content: Mapping[str, Any]) -> Content | None:
    """Make the dataclass from this content; None when a required field is missing."""
    try:
        return kind(**content)
    except TypeError:
        return None
