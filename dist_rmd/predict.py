"""python -m dist_rmd.predict RUN IMAGES...: classifies images with a run's network, on one process or on many."""

import csv
import io
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor, nn

from dist_rmd.cli import terminal
from dist_rmd.cli.command_line import Parser
from dist_rmd.cli.paths import user_path
from dist_rmd.cli.progress import track
from dist_rmd.data.images.pictures import UnreadableImage, read_image
from dist_rmd.data.images.trees import image_files
from dist_rmd.distill.division import refined_labels, subjective_logic_loss
from dist_rmd.distributed import processes
from dist_rmd.distributed.processes import World
from dist_rmd.engine.console import print_table
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.files import write_atomically
from dist_rmd.run.finished import FinishedRun, load_run
from dist_rmd.run.prediction import BATCH, Normalised
from dist_rmd.stages.division import DivisionConfig
from dist_rmd.text.escapes import spreadsheet, visible
from dist_rmd.text.reader import read_table, read_text

LISTS = (".txt", ".csv", ".tsv")
SHOWN = 10
"""most images in the table on the terminal, and most unreadable images listed there"""


class Guess(NamedTuple):
    """The two most probable classes of one image, or why the image cannot be read."""

    file: Path
    problem: str = ""
    """why the image cannot be read; the other fields are empty then"""
    labels: tuple[int, int] = (0, 0)
    """the most probable class and the second"""
    probabilities: tuple[float, float] = (0.0, 0.0)
    open_set: float | None = None
    """open-set score: near 0 the run's teacher is sure of a class, near 1 of none.  None without such a teacher"""


@dataclass(frozen=True)
class Judge:
    """Predicts the classes of batches of image files."""

    run: FinishedRun
    net: nn.Module
    normalised: Normalised
    side: int
    teacher: nn.Module | None
    """of a run with stage `division`: the network that scores open-set images"""
    pool: ThreadPoolExecutor

    def __call__(self, files: Sequence[Path]) -> list[Guess]:
        read = [*self.pool.map(partial(_read, side=self.side), files)]
        sound = [pixels for pixels in read if not isinstance(pixels, str)]
        guesses = self._guesses(np.stack(sound)) if sound else iter(())
        return [
            Guess(file, problem=pixels) if isinstance(pixels, str) else next(guesses)._replace(file=file)
            for file, pixels in zip(files, read, strict=True)
        ]

    @torch.no_grad()
    def _guesses(self, pixels: np.ndarray) -> Iterator[Guess]:
        view = self.normalised(pixels)
        probabilities, labels = self.net(view)[0].float().softmax(dim=1).topk(2)
        unknown = [None] * len(pixels) if self.teacher is None else self._open_set(self.teacher(view)[0]).tolist()
        for p, label, score in zip(probabilities.tolist(), labels.tolist(), unknown, strict=True):
            yield Guess(Path(), "", tuple(label), tuple(p), score)

    def _open_set(self, logits: Tensor) -> Tensor:
        """Subjective-logic loss of the teacher's own prediction, as in stage `division`: logits N x C -> N float64."""
        c = self.run.config.section(DivisionConfig)
        return subjective_logic_loss(logits, refined_labels(logits), c.evidence, c.logit_scale)


@terminal.told
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see dist_rmd.errors)."""
    parser = Parser(
        prog="dist-rmd predict",
        description="Say what a run's classifier takes images for: a table of all of them in a file, a short one here. "
        "Start it with torchrun or srun for several processes.  docs/use.md says what the columns mean.",
    )
    parser.add_argument("run", type=user_path, metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument(
        "images",
        type=user_path,
        nargs="+",
        metavar="IMAGES",
        help="image files of any kind and size; folders, with all images in and below them; .txt files with a path a "
        "line, or .csv files with a column file, both relative to the list's own folder",
    )
    parser.add_argument("--stage", help="whose classifier (default: that of the last finished stage that has one)")
    parser.add_argument("--best", action="store_true", help="the network of the best epoch in place of the last one's")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="default: the GPU, if any")
    parser.add_argument(
        "--batch-size", type=int, default=BATCH, metavar="N", help=f"images at once on each process (default: {BATCH})"
    )
    parser.add_argument("--out", type=user_path, metavar="FILE", help="default: predictions.csv in the run folder")
    try:
        given = parser.parse(sys.argv[1:] if argv is None else argv)
        if given.batch_size < 1:
            raise ConfigError(f"--batch-size {given.batch_size}: at least 1")
        world = processes.detect(given.device)
        predict(load_run(given.run), given.images, world, given.stage, given.best, given.batch_size, given.out)
    finally:
        processes.stop()
    return 0


def predict(
    run: FinishedRun,
    given: Sequence[Path],
    world: World,
    stage: str | None = None,
    best: bool = False,
    batch_size: int = BATCH,
    out: Path | None = None,
) -> None:
    """Classify images and write the table; rank 0 also prints a summary.  Every rank must call this function.

    Batches hold the same files on any number of ranks, so that the outputs are the same to the bit.
    Raises DataError if no image can be read, after the table is written.
    """
    files = [*dict.fromkeys(file for place in given for file in _files(place))]
    if not files:
        raise DataError(f"{', '.join(map(str, given))}: no image found")
    peers = processes.start(world, run.config.dist.timeout)
    stage = run.classifier(stage)
    saved = run.saved(stage, best)
    origin, console = saved.origin, Console(highlight=False, soft_wrap=True)
    found: dict[int, Guess] = {}
    with ThreadPoolExecutor(world.cores) as pool:
        judge = Judge(
            run,
            run.network(stage, device=world.device, best=best),
            Normalised(origin, world.device),
            origin.side,
            _teacher(run, origin.classes, world),
            pool,
        )
        starts = range(0, len(files), batch_size)[world.rank :: world.size]
        for start in _tracked(starts, len(files), batch_size, world):
            found |= dict(enumerate(judge(files[start : start + batch_size]), start))
    everyone = {number: guess for part in peers.gather(found) for number, guess in part.items()}
    if not world.leads:
        return
    guesses = [everyone[number] for number in range(len(files))]
    out = out or run.folder.predictions
    text = table(guesses, origin.classes)
    write_atomically(out, lambda file: file.write(text.encode("utf-8", "surrogateescape")))
    said = f"{run.folder}: {stage} ({saved.when}), {len(origin.classes)} classes"
    console.print(f"{said}; images resized and cropped to {origin.side} x {origin.side}", markup=False)
    _show(console, guesses, origin.classes)
    console.print(str(out), markup=False)
    if all(guess.problem for guess in guesses):
        raise DataError(f"none of {len(guesses)} images can be read")


def _files(place: Path) -> list[Path]:
    """List the image files that one argument names: a folder's, a list's (.csv, .txt), or the file itself."""
    if place.is_dir():
        return [*image_files(place)]
    if place.suffix.lower() not in LISTS:
        if not place.exists():
            raise ConfigError(f"{place}: no such file or folder")
        return [place]
    if place.suffix.lower() == ".txt":
        names = [line.strip() for line in read_text(place).splitlines()]
    else:
        names = [row["file"].strip() for _, row in read_table(place, ["file"]).rows]
    return [place.parent / user_path(name) for name in names if name]


def _read(file: Path, side: int) -> np.ndarray | str:
    """Read the pixels of an image, side x side x 3 uint8; or return why the image cannot be read."""
    try:
        return read_image(file, side)
    except UnreadableImage as error:
        return str(error).removeprefix(f"{file}: ")


def _teacher(run: FinishedRun, classes: Sequence[str], world: World) -> nn.Module | None:
    """Load the teacher whose losses divided the run's images; None without a division or without the teacher's file."""
    if "division" not in (*run.config.stages, *run.config.inputs):
        return None
    if not run.artefact("teacher").exists():
        warnings.warn(f"{run.folder}: its teacher is not here, so no image gets an open-set score", stacklevel=2)
        return None
    if run.saved("teacher").origin.classes != classes:
        raise DataError(f"{run.artefact('teacher')}: the teacher knows other classes than the classifier")
    return run.network("teacher", device=world.device)


def _tracked(starts: range, files: int, batch_size: int, world: World) -> Iterable[int]:
    """Iterate over `starts`; rank 0 shows the progress of its own share, which is about that of the other ranks."""
    if not world.leads:
        return starts
    return track(starts, "predict", sum(min(batch_size, files - start) for start in starts), batch_size)


def table(guesses: Sequence[Guess], classes: Sequence[str]) -> str:
    """Text of a .csv with a row for each image.

    Columns: file, class, probability, second, second_probability, open_set if the run has such scores, and problem, why
    the image could not be read.  An apostrophe precedes names that a spreadsheet could run as formulas.
    """
    scored = any(guess.open_set is not None for guess in guesses)
    names = [spreadsheet(name) for name in classes]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["file", "class", "probability", "second", "second_probability", *["open_set"] * scored, "problem"])
    for guess in guesses:
        cells = [""] * (4 + scored)
        if not guess.problem:
            (first, second), p = guess.labels, guess.probabilities
            cells = [names[first], f"{p[0]:.6f}", names[second], f"{p[1]:.6f}"]
            cells += [] if guess.open_set is None else [f"{guess.open_set:.6f}"]
        rows.writerow([spreadsheet(str(guess.file)), *cells, spreadsheet(visible(guess.problem))])
    return text.getvalue()


def _show(console: Console, guesses: Sequence[Guess], classes: Sequence[str]) -> None:
    """Print the first images, the number of images of each class, and the images that cannot be read."""
    sound = [guess for guess in guesses if not guess.problem]
    columns = ["file", "class", "%", "second", "%"] + ["open set"] * any(g.open_set is not None for g in sound)
    rows = Table(*(Column(name, no_wrap=True) for name in columns), box=SIMPLE, pad_edge=False)
    for guess in sound[:SHOWN]:
        (first, second), p = guess.labels, guess.probabilities
        cells = [str(guess.file), classes[first], f"{100 * p[0]:.1f}", classes[second], f"{100 * p[1]:.1f}"]
        cells += [] if guess.open_set is None else [f"{guess.open_set:.2f}"]
        rows.add_row(*(Text(visible(cell)) for cell in cells))
    if sound:
        print_table(console, rows)
    if len(sound) > SHOWN:
        console.print(f"... and {len(sound) - SHOWN:,} more images")
    counts = Counter(guess.labels[0] for guess in sound)
    console.print(", ".join(f"{visible(classes[label])} {n:,}" for label, n in counts.most_common()), markup=False)
    broken = [guess for guess in guesses if guess.problem]
    if broken:
        console.print(f"{len(broken):,} of {len(guesses):,} images cannot be read:")
    for guess in broken[:SHOWN]:
        console.print(f"  {visible(str(guess.file))}: {visible(guess.problem)}", markup=False)
    if len(broken) > SHOWN:
        console.print(f"  ... and {len(broken) - SHOWN:,} more, which the table names")


if __name__ == "__main__":
    sys.exit(terminal.run(main))
