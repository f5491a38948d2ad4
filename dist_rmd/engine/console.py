"""What a run says while it works: a live bar on a terminal, one plain line every N seconds elsewhere, status.json."""

import sys
import time
from collections.abc import Mapping

from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from dist_rmd.engine.clock import Clock
from dist_rmd.engine.logs import logger
from dist_rmd.run.folder import RunFolder, Status


class Console:
    """Speaks on rank 0; on the others it only fills the rank's log.  status.json goes into `folder`."""

    def __init__(self, rank: int, every: float, folder: RunFolder):
        self.active = rank == 0
        self.every = every
        self.folder = folder
        self.rich = RichConsole(highlight=False, soft_wrap=True)
        self.progress: Progress | None = None
        self.task = TaskID(0)

    def say(self, line: str) -> None:
        """One line, above the bar if there is one, and in the log."""
        logger.info(line)
        if self.active:
            self.rich.print(line, markup=False)

    def start(self, stage: str, done: int, steps: int) -> None:
        """Begin a stage of `steps` optimizer steps, `done` of which an earlier attempt made."""
        self.stage, self.steps = stage, steps
        self._began, self._done_before = time.monotonic(), done
        self._spoken = self._began
        self.loss = self.score = ""
        self._clock: Clock | None = None
        if self.active and self.rich.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=self.rich,
                transient=True,
            )
            self.task = self.progress.add_task(stage, total=steps, completed=done, text="")
            self.progress.start()

    def step(self, clock: Clock, metrics: Mapping[str, float] | None = None) -> None:
        """Show where training stands; `metrics` are the newest means, if there are new ones."""
        if not self.active:
            return
        self._clock = clock
        if metrics:
            self.loss = f"loss {metrics['train/loss']:.4f}  {metrics['perf/images_per_s']:,.0f} images/s"
        if self.progress:
            self.progress.update(self.task, completed=clock.step, text=f"epoch {clock.epoch + 1}  {self._text()}")
        if time.monotonic() - self._spoken > self.every:
            self._spoken = time.monotonic()
            left = self._write_status(clock)
            if not self.progress:
                where = f"epoch {clock.epoch + 1}, step {clock.step}/{self.steps}"
                self.say(f"{self.stage}: {where}  {self._text()}  {duration(left)} left")

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Show the newest evaluation from now on."""
        self.score = "  ".join(f"{tag} {value:.2f}" for tag, value in metrics.items())

    def stop(self) -> None:
        """End the stage's bar."""
        if self.progress:
            self.progress.stop()
            self.progress = None
        if self._clock:
            self._write_status(self._clock)

    def _text(self) -> str:
        return "  ".join(part for part in (self.loss, self.score) if part)

    def _write_status(self, clock: Clock) -> float:
        """Write down how far the run is; returns the seconds left."""
        done = clock.step - self._done_before
        left = (time.monotonic() - self._began) / max(done, 1) * (self.steps - clock.step)
        self.folder.write_status(Status(self.stage, clock.epoch, clock.step, self.steps, round(left)))
        return left


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
