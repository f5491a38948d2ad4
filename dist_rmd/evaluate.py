"""python -m dist_rmd.evaluate RUN: accuracy of a run's trained networks, on one process or on many."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dist_rmd.cli import terminal
from dist_rmd.cli.command_line import Parser
from dist_rmd.cli.paths import user_path
from dist_rmd.data.labels.view import LabelView
from dist_rmd.distributed import processes
from dist_rmd.evaluation._splits import splits
from dist_rmd.pipeline.measured import measured
from dist_rmd.registry import lookup
from dist_rmd.run.finished import FinishedRun


@terminal.told
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see dist_rmd.errors)."""
    parser = Parser(
        prog="dist-rmd evaluate",
        description="Evaluate every finished stage of a run on the test images with their clean labels: top-1 accuracy "
        "of classifiers, nearest-neighbour accuracy of encoders.",
    )
    parser.add_argument("run", type=user_path, metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument("--data", type=user_path, metavar="DIR", help="other prepared images than those of the run")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help="default: the GPU, if any")
    parser.add_argument(
        "--best", action="store_true", help="the checkpoints that scored best, on test images or on labels held out"
    )
    try:
        arguments = parser.parse(sys.argv[1:] if argv is None else argv)
        for line in evaluate(arguments.run, arguments.data, arguments.device, arguments.best):
            print(line)
    finally:
        processes.stop()
    return 0


def evaluate(folder: Path, data: Path | None, device: str, best: bool = False) -> list[str]:
    """One line per finished stage and metric; empty on all ranks but the first."""
    run = FinishedRun(folder)
    world = processes.detect(device)
    processes.start(world, run.config.dist.timeout)
    dataset = run.dataset(data)
    labels = run.labels
    if data:
        labels = LabelView.of(dataset.labels("train"), len(dataset.classes), dataset.verified)
    looked_at = splits(run.source(dataset, world), labels)
    lines = []
    for stage in run.stages:
        if lookup("stages", stage).evaluation is None:
            continue
        if best and not run.has_best(stage):
            lines.append(f"{stage}  no checkpoint of its best epoch here: another run trained it")
            continue
        nets = {name: run.network(stage, dataset, world.device, best, name) for name in run.networks(stage)}
        metrics = measured(lookup("stages", stage).evaluation, nets, looked_at)
        which = "  (best epoch)" if best else ""
        lines += [f"{stage}  {tag} {value:.2f}{which}" for tag, value in metrics.items()]
    return lines if world.leads else []


if __name__ == "__main__":
    sys.exit(terminal.run(main))
