"""Progress of a run: a live bar on a terminal, one plain line every N seconds elsewhere, and status.json."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dist_rmd.engine.clock import Clock
from dist_rmd.engine.logs import logger
from dist_rmd.engine.score import Score
from dist_rmd.run.folder import RunFolder, Status


class Console:
    """Prints on rank 0; on other ranks it only writes the rank's log.  status.json goes into `folder`.

    every: seconds between two lines where there is no terminal.  stages: all of the run, in their order.
    """

    def __init__(self, rank: int, every: float, folder: RunFolder, stages: Sequence[str] = ()):
        self.active = rank == 0
        self.every = every
        self.folder = folder
        self.stages = tuple(stages)
        self.rich = RichConsole(highlight=False, soft_wrap=True)
        self.progress: Progress | None = None
        self.task = TaskID(0)

    def say(self, line: str) -> None:
        """Print one line, above the bar if there is a bar, and log it."""
        logger.info(line)
        if self.active:
            self.rich.print(line, markup=False)

    def start(self, stage: str, done: int, steps: int, epochs: int = 0) -> None:
        """Begin a stage of `steps` optimizer steps, `done` of which an earlier attempt made, in `epochs`, if any."""
        self.stage, self.steps, self.epochs = stage, steps, epochs
        many = len(self.stages) > 1 and stage in self.stages
        self.title = f"{stage} (stage {self.stages.index(stage) + 1} of {len(self.stages)})" if many else stage
        self._began, self._done_before = time.monotonic(), done
        self._spoken = self._began
        self.loss = self.score = ""
        self._clock: Clock | None = None
        if self.active and self.rich.is_terminal:
            self.progress = _Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[epoch]}{task.percentage:.0f} %"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self.rich,
            )
            self.task = self.progress.add_task(self.title, total=steps, completed=done, epoch="", text="")
            self.progress.start()

    def step(self, clock: Clock, metrics: Mapping[str, float] | None = None) -> None:
        """Show where training stands; `metrics` are the newest means, if there are new ones."""
        if not self.active:
            return
        self._clock = clock
        if metrics:
            self.loss = f"loss {metrics['train/loss']:.4f}  {metrics['perf/images_per_s']:,.0f} images/s"
        if self.progress:
            self.progress.update(self.task, completed=clock.step, epoch=self._epoch(clock), text=self._text())
        if time.monotonic() - self._spoken > self.every:
            self._spoken = time.monotonic()
            left = self._write_status(clock)
            if not self.progress:
                where = f"{self._epoch(clock)}step {clock.step}/{self.steps}"
                self.say(f"{self.title}: {where}  {self._text()}  {duration(left)} left")

    def evaluated(self, score: Score) -> None:
        """Show what the evaluations so far have come to from now on."""
        self.score = score.short

    def stop(self) -> None:
        """End the stage's bar, which stays where it is."""
        if self.progress:
            self.progress.update(self.task, text=self._text())
            self.progress.stop()
            self.progress = None
        if self._clock:
            self._write_status(self._clock)

    def _epoch(self, clock: Clock) -> str:
        return f"epoch {min(clock.epoch + 1, self.epochs)} of {self.epochs}, " if self.epochs else ""

    def _text(self) -> str:
        return "  ".join(part for part in (self.loss, self.score) if part)

    def _write_status(self, clock: Clock) -> float:
        """Write down how far the run is; returns the seconds left."""
        done = clock.step - self._done_before
        left = (time.monotonic() - self._began) / max(done, 1) * (self.steps - clock.step)
        self.folder.write_status(Status(self.stage, clock.epoch, clock.step, self.steps, round(left)))
        return left


class _Bar(Progress):
    """A line for the bar, and one for the numbers beneath it: both fit into 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(f"  {task.fields['text']}", no_wrap=True, overflow="ellipsis") for task in self.tasks)


def print_table(console: RichConsole, table: Table) -> None:
    """Print `table` so that nothing of it is cut: on a narrow terminal its lines are longer than the terminal's."""
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(text)) for text in (column.header, *column.cells))
    unlimited = console.options.update(width=sys.maxsize)
    console.width = max(console.width, Measurement.get(console, unlimited, table).minimum)
    console.print(table, soft_wrap=False)


def duration(seconds: float) -> str:
    """h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
