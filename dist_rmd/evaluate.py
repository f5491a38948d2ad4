"""python -m dist_rmd.evaluate RUN: measures a run's trained networks on test images, on one process or on many."""

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_rmd.cli import extras, terminal
from dist_rmd.cli.command_line import Parser
from dist_rmd.cli.paths import user_path
from dist_rmd.data.labels.view import LabelView
from dist_rmd.distributed import processes
from dist_rmd.errors import CannotCreate, ConfigError, DataError
from dist_rmd.evaluation._details import Details, details
from dist_rmd.evaluation._splits import splits
from dist_rmd.pipeline.measured import measured
from dist_rmd.registry import lookup
from dist_rmd.run.finished import FinishedRun
from dist_rmd.text.escapes import visible

SHOWN = 20
"""most classes in the table on the terminal; with more classes the table has those of the lowest accuracy"""


@dataclass(frozen=True)
class Evaluated:
    """Metrics of the networks of one stage."""

    stage: str
    when: str = ""
    """epoch of the networks, in words: `last epoch, 20`"""
    metrics: dict[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    details: Details | None = None
    """details of the stage's evaluated classifier; None for other networks"""
    note: str = ""
    """why nothing was measured; empty otherwise"""

    def __str__(self) -> str:
        if self.note:
            return f"{self.stage}  {self.note}"
        lines = [f"{self.stage}  {tag} {value:.2f}  ({self.when})" for tag, value in self.metrics.items()]
        return "\n".join([*lines, *self._by_class()])

    def _by_class(self) -> list[str]:
        """Lines of a table of accuracy by class; of more than SHOWN classes the SHOWN with the lowest accuracy."""
        if self.details is None:
            return []
        found = self.details
        rows = [label for label, accuracy in enumerate(found.by_class) if accuracy is not None]
        few = len(rows) <= SHOWN
        if not few:
            rows = sorted(rows, key=lambda label: found.by_class[label] or 0.0)[:SHOWN]
        width = max(len(visible(self.classes[label])) for label in rows)
        lines = [f"{self.stage}, by class{'' if few else f', the {SHOWN} with the lowest accuracy'}  ({self.when})"]
        for label in rows:
            other = found.mistaken_for(label)
            often = "" if other is None else f"  most often taken for {visible(self.classes[other])}"
            counted = f"{found.by_class[label]:6.2f} % of {found.images[label]:,} images"
            lines.append(f"  {visible(self.classes[label]):<{width}}  {counted}{often}")
        return lines

    def plain(self) -> dict[str, Any]:
        """Values for JSON, rounded to the digits that are the same on any number of ranks."""
        if self.note:
            return {"note": self.note}
        metrics = {tag: round(value, 4) for tag, value in self.metrics.items()}
        content: dict[str, Any] = {"network": self.when, "metrics": metrics}
        if self.details is not None:
            accuracies = zip(self.classes, self.details.by_class, self.details.images.tolist(), strict=True)
            content["classes"] = [
                {"name": name, "images": images, "accuracy": None if accuracy is None else round(accuracy, 4)}
                for name, accuracy, images in accuracies
            ]
            content["confusion"] = self.details.confusion.tolist()
        return content


@terminal.told
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see dist_rmd.errors)."""
    parser = Parser(
        prog="dist-rmd evaluate",
        description="Evaluate every stage of a run on the test images with their clean labels: nearest-neighbour "
        "accuracy of encoders; of classifiers top-1, top-5, accuracy by class and calibration error, with a picture of "
        "what is taken for what.  Of a stage that is not finished, the newest checkpoint.  docs/use.md explains each.",
    )
    parser.add_argument("run", type=user_path, metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument("--data", type=user_path, metavar="DIR", help="other prepared images than those of the run")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="default: the GPU, if any")
    parser.add_argument(
        "--best", action="store_true", help="the checkpoints that scored best, on test images or on labels held out"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, and draw no picture")
    try:
        arguments = parser.parse(sys.argv[1:] if argv is None else argv)
        found = evaluate(arguments.run, arguments.data, arguments.device, arguments.best)
        if arguments.json and found:
            stages = {one.stage: one.plain() for one in found}
            print(json.dumps({"run": str(arguments.run), "stages": stages}, indent=1))
            return 0
        for one in found:
            print(one)
        for line in _pictures(FinishedRun(arguments.run), found):
            print(line)
    finally:
        processes.stop()
    return 0


def evaluate(folder: Path, data: Path | None, device: str, best: bool = False) -> list[Evaluated]:
    """Measure the networks of every stage that has an evaluation.  The list is empty on all ranks but rank 0."""
    run = FinishedRun(folder)
    world = processes.detect(device)
    processes.start(world, run.config.dist.timeout)
    dataset = run.dataset(data)
    labels = run.labels
    if data:
        labels = LabelView.of(dataset.labels("train"), len(dataset.classes), dataset.verified)
    looked_at = splits(run.source(dataset, world), labels)
    found = []
    for stage in run.trained:
        if (evaluation := lookup("stages", stage).evaluation) is None:
            continue
        if best and not run.has_best(stage):
            found.append(Evaluated(stage, note="no checkpoint of its best epoch here: another run trained it"))
            continue
        try:
            nets = {name: run.network(stage, dataset, world.device, best, name) for name in run.networks(stage)}
            saved = run.saved(stage, best)
        except DataError as error:
            if run.folder.finished(stage):
                raise
            found.append(Evaluated(stage, note=str(error)))
            continue
        metrics, more = measured(evaluation, nets, looked_at), None
        if saved.is_classifier:
            more = details(nets[""], looked_at)
            metrics |= {} if more.top5 is None else {looked_at.measured("top5"): more.top5}
            metrics[looked_at.measured("ece")] = more.ece
        found.append(Evaluated(stage, saved.when, metrics, tuple(dataset.classes), more))
    return found if world.leads else []


def _pictures(run: FinishedRun, found: Sequence[Evaluated]) -> list[str]:
    """Draw the figures of the classifiers; returns their paths, or one line that says why there are none."""
    classifiers = [one for one in found if one.details is not None]
    if not classifiers:
        return []
    try:
        with extras.explained():
            from dist_rmd.reports._evaluated import draw
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [str(draw(run, one.stage, one.when, one.classes, one.details)) for one in classifiers if one.details]
    except (ConfigError, CannotCreate) as error:
        return [f"no picture: {error}"]


if __name__ == "__main__":
    sys.exit(terminal.run(main))
