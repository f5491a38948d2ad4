"""Run all cells of a grid, such as a table of a paper, here or as SLURM jobs; again, to go on with what is missing."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, track
from rich.table import Column, Table

from dist_rmd import config as configuration
from dist_rmd.cli import extras, terminal
from dist_rmd.cli.paths import user_path
from dist_rmd.cluster.arrays import Queue
from dist_rmd.cluster.options import JobParser, positive
from dist_rmd.cluster.standing import Standing, counts, runs, standings
from dist_rmd.config import sections, shipped
from dist_rmd.engine.console import print_table
from dist_rmd.errors import ConfigError, Stopped
from dist_rmd.files import check_writable
from dist_rmd.run.folder import slurm_folder
from dist_rmd.sweep import choice, record, search
from dist_rmd.sweep import grid as grids
from dist_rmd.sweep.grid import GridRun
from dist_rmd.sweep.slots import Running, Slots
from dist_rmd.sweep.tasks import Planner, RunSpec, with_needs

EPILOG = """\
Each run is <out>/<grid>/<cell>-seed<N>, what it says is in <out>/<grid>/logs.  Stages that several cells start from,
such as SimSiam's teacher, are trained once, first.  Finished runs are skipped, stopped ones go on, failed ones are
tried again (those whose loss was not finite with --again only).  Machines that share <out> can work on one grid.
At any time, `dist-rmd report table1 <out>/table1` makes the table.
Exit code: 0 all done (--slurm: all submitted), 1 some are not, 2 wrong configuration, 65 wrong data, 75 stopped on
request.
"""


@terminal.told
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _arguments(sys.argv[1:] if argv is None else argv)
    looks = arguments.dry_run or arguments.status
    with contextlib.nullcontext() if looks else terminal.lasting():
        return sweep(arguments)


def sweep(arguments: argparse.Namespace) -> int:
    """Plan all, then run all.  Returns the exit code."""
    if arguments.slurm:
        with extras.explained():
            from dist_rmd.cluster import submission, sweep_jobs
        submission.check(arguments)
    elif arguments.follow:
        raise ConfigError("--follow is for --slurm: without it the sweep is followed anyhow")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    overrides = tuple(arguments.overrides)
    whole = grids.load(arguments.grid, arguments.seeds)
    grid = whole.only(choice.from_words(arguments.only))
    first = grid.cells[0]
    folder = Path(sections.parse(first.file, [*first.overrides(), *overrides]).out) / grid.folder
    device = None  # this machine's
    if arguments.slurm:
        device = "cuda" if arguments.gpus else "cpu"
    elif arguments.status:
        device = Queue(folder).device
    planner = Planner(grid.folder, overrides, arguments.ranks, torch.device(device) if device else None)
    looks = arguments.dry_run or arguments.status
    if not arguments.status:
        for place in (folder, slurm_folder(folder) if arguments.slurm else folder / "logs"):
            check_writable(place)

    def tracked(cells: Sequence[GridRun]) -> Iterable[GridRun]:
        return track(cells, "planning", console=console, transient=True, disable=not console.is_terminal)

    def run(tasks: Sequence[RunSpec]) -> int:
        if arguments.status:
            return _show(standings(with_needs(tasks), Queue(folder)), console)
        if arguments.slurm:
            return sweep_jobs.submit(tasks, folder, arguments, console)
        return _list(tasks, console) if arguments.dry_run else _run(tasks, arguments, console)

    cells, code = grid.cells, 0
    if arguments.search:
        if whole.search is None:
            raise ConfigError(f"{arguments.grid}: there is no `search` in it")
        places, key = {cell.place for cell in cells}, whole.search.key
        others = grids.load(arguments.grid, whole.search.seeds).only(whole.search.condition).cells
        trials = search.trials(whole.search, tracked([cell for cell in others if cell.place in places]), planner.task)
        found = [task for values in trials.values() for tasks in values.values() for task in tasks]
        code = run(found)
        if looks or code == Stopped.code:
            return code
        if arguments.slurm and any(one.alive for one in standings(with_needs(found), Queue(folder))):
            console.print("the search is under way: when it has ended, the same command chooses and runs the cells")
            return code
        best = search.best(trials, key, folder, console.print)
        lost = trials.keys() - best.keys()
        cells = [c.having({key: best[c.place]} if c.place in best else {}) for c in cells if c.place not in lost]
    tasks = {cell: planner.task(cell, cell.name) for cell in tracked(cells)}
    if not looks:
        configs = {cell.place: task.config for cell, task in tasks.items()}
        record.write(folder, whole, configs, overrides, {path: data.name for path, data in planner.datasets.items()})
    return run(list(tasks.values())) or code


class Bars:
    """Shows on a terminal how far each running task is.  Elsewhere it shows nothing."""

    def __init__(self, console: Console):
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bars: dict[str, TaskID] = {}

    def __call__(self, running: Sequence[Running]) -> None:
        tasks = {one.task.name: one.task for one in running}
        (self.progress.start if tasks else self.progress.stop)()
        for name in self.bars.keys() - tasks.keys():
            self.progress.remove_task(self.bars.pop(name))
        for name, task in tasks.items():
            if name not in self.bars:
                self.bars[name] = self.progress.add_task(name, total=None, text="")
            if status := task.status:
                text = f"{status.stage}, epoch {status.epoch + 1}"
                self.progress.update(self.bars[name], completed=status.step, total=status.steps, text=text)


def _run(tasks: Sequence[RunSpec], arguments: argparse.Namespace, console: Console) -> int:
    """Run them here, and say what came of it.  Returns the exit code."""
    machine = max(1, torch.cuda.device_count() // arguments.ranks)
    jobs = arguments.jobs or (machine * arguments.pack if arguments.pack else 1)
    console.print(f"{len(tasks)} runs, {sum(task.state == 'done' for task in tasks)} finished before")
    stopped_by = Slots(jobs, arguments.ranks, console.print, Bars(console)).run(tasks, arguments.again)
    missing = [task for task in with_needs(tasks) if task.state != "done"]
    console.print(f"{sum(task.state == 'done' for task in tasks)} of {len(tasks)} runs are finished")
    if stopped_by:
        console.print(f"stopped by {signal.Signals(stopped_by).name}: the same command goes on")
        return Stopped.code
    for task in missing:
        console.print(f"missing  {task.name}: {task.reason}")
    return 1 if missing else 0


def _show(found: Sequence[Standing], console: Console) -> int:
    """A table of how the runs are doing, for --status.  Returns the exit code."""
    whole = (Column(name, no_wrap=True) for name in ("run", "state", "job"))
    table = Table(*whole, Column("where it is, or why not further", min_width=20))
    for one in found:
        table.add_row(one.name, one.state, one.job, one.text)
    print_table(console, table)
    console.print(f"{runs(len(found))}: {counts(found)}")
    return int(any(one.state != "done" for one in found))


def _list(tasks: Sequence[RunSpec], console: Console) -> int:
    """Print the runs and their states, for --dry-run; returns the exit code."""
    for task in with_needs(tasks):
        console.print(f"{task.state:8} {task.name}")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = JobParser(
        prog="dist-rmd sweep",
        description=__doc__,
        epilog=EPILOG,
    )
    parser.add_argument("grid", metavar="GRID.yaml", help="a file, or a shipped one such as rmdnet/table1")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all runs, such as model.width=16")
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="runs at a time (default 1); with --slurm, elements of an array (all)",
    )
    parser.add_argument("--pack", type=positive, metavar="N", help="runs at a time on each GPU, which they share")
    parser.add_argument("--ranks", type=positive, default=1, metavar="N", help="processes of each run, by torchrun")
    parser.add_argument(
        "--only", action="append", default=[], metavar="AXIS=VALUE,...", help="some cells; once for each axis"
    )
    parser.add_argument("--seeds", type=_numbers, metavar="N,...", help="other seeds than the grid's")
    parser.add_argument(
        "--search", action="store_true", help="find K, or what the grid's `search` names, on labels held out, first"
    )
    parser.add_argument("--again", action="store_true", help="try runs whose loss was not finite again")
    parser.add_argument("--dry-run", action="store_true", help="check all, list what is done and what is not")
    parser.add_argument("--status", action="store_true", help="a table of what is done, running, failed, and why")
    parser.add_argument("--slurm", action="store_true", help="as job arrays, one machine for each element")
    parser.add_argument("--follow", action="store_true", help="with --slurm: wait for the end; ctrl-C leaves the jobs")
    parser.add_job_options(without=("nodes", "tasks-per-node"))
    arguments = parser.parse(argv)
    arguments.grid = shipped.find(user_path(arguments.grid))
    for key in ("name", "stages", "seed", "noise.seed"):
        if any(override.startswith(f"{key}=") for override in arguments.overrides):
            raise ConfigError(f"{key}= is what the grid says of each run" + (": see --seeds" if "seed" in key else ""))
    if any(name == "dependency" for name, _ in arguments.sbatch):
        raise ConfigError("--sbatch dependency=...: the jobs of a sweep already wait for one another")
    for line in configuration.repeated(arguments.overrides):
        print(f"warning: {line}", file=sys.stderr)
    return arguments


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(terminal.run(main))
