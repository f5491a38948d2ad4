"""What a step is, and what it is given to work with."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.bench_parts.tables import Table
from tools.replicate_parts import command
from tools.replicate_parts.record import Entry, Record


class Cut(Exception):
    """The step's time is over: what it has shown stands."""


class StopAsked(Exception):
    """A signal asked the tool to stop."""


class CommandFailed(Exception):
    """A program ended with an error.  The message ends with the last lines of its output."""


@dataclass(frozen=True)
class Step:
    """One piece of evidence.

    least: device -> seconds below which it is not begun.  most: seconds it may take of a call of up to ten minutes;
    longer calls stretch them.  weight: instead, its share in what is left to all steps that have one.
    """

    name: str
    title: str
    run: Callable[["Work"], None]
    least: Mapping[str, float]
    most: Mapping[str, float] = field(default_factory=dict)
    weight: float = 0.0
    leaves: str = ""
    """what later steps need of it, below the work folder: without, it is done anew"""


@dataclass
class Work:
    """What a running step is given."""

    device: str
    """cpu or cuda"""
    data: Path | None
    """the images, as they are given; None: scikit-learn's digits"""
    kind: str
    """how they are laid out: a data set of `prepare`, or betons"""
    folder: Path
    """for large files; kept for the next call"""
    record: Record
    entry: Entry
    until: float
    """time.monotonic() at which the step's time is over"""
    stopped: Callable[[], bool]

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def images(self) -> Path:
        """The prepared images."""
        return self.folder / "images"

    def left(self) -> float:
        """Seconds of the step's time that remain."""
        return max(0.0, self.until - time.monotonic())

    def show(self, *tables: Table) -> None:
        """Results so far, on the disk at once; a table of the same title is replaced."""
        self.entry.show(tables)
        self.record.write()

    def say(self, figure: str) -> None:
        """The result in a few words, for the overview."""
        self.entry.figure = figure
        self.record.write()

    def note(self, line: str) -> None:
        """What a reader must know of the figures."""
        if line not in self.entry.notes:
            self.entry.notes.append(line)
            self.record.write()

    def finished(self, part: str) -> bool:
        """An earlier call has done this part of the step, or this one."""
        return part in self.entry.parts

    def finish(self, part: str) -> None:
        """From now on it has."""
        self.entry.parts.append(part)
        self.record.write()

    def python(
        self,
        *arguments: Any,
        limit: float | None = None,
        look: Callable[[], bool] = lambda: False,
        codes: Sequence[int] = (0,),
        tell: bool = True,
        interpreter: str = sys.executable,
    ) -> command.Ended:
        """Run `python ARGUMENTS`, for as long as the step may run, or `limit` seconds if that is less.

        Raises StopAsked, CommandFailed for another exit code than `codes`, and Cut where the step's own time is over; a
        `limit` that is reached is no error.  tell: the command belongs to what a reader is told.
        """
        words = list(map(str, arguments))
        if tell:
            self.entry.tell(shlex.join(["python", *words]))
            self.record.write()
        room = self.left() - command.GRACE if "dist_rmd.train" in words else self.left()
        log = self.folder / "logs" / f"{self.entry.name}.log"
        own = limit is not None and limit < room
        start = log.stat().st_size if log.exists() else 0
        ended = command.run([interpreter, *words], log, limit if own else room, look, self.stopped)  # type: ignore[arg-type]
        if ended.why == "stopped":
            raise StopAsked
        if ended.why == "limit" and not own:
            raise Cut
        if not ended.why and ended.code not in codes:
            with open(log, "rb") as output:
                output.seek(start)
                said = output.read().decode(errors="replace").strip().splitlines()
            raise CommandFailed(f"{shlex.join(['python', *words])}: exit code {ended.code}\n" + "\n".join(said[-25:]))
        return ended
