"""Train as a SLURM job: `dist-rmd train CONFIG.yaml key=value ...` on every GPU of the job's nodes.

The job is requeued when it is preempted or its time is over, and goes on from its checkpoint under the same job id.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

from dist_rmd.cli import command_line, extras, terminal
from dist_rmd.cluster.options import JobParser
from dist_rmd.errors import ConfigError

ELEMENTS = re.compile(r"\d+(-\d+(:[1-9]\d*)?)?(,\d+(-\d+(:[1-9]\d*)?)?)*(%[1-9]\d*)?")
EPILOG = """\
Options of your own go before CONFIG.yaml or after it.  What the job says is in
<run folder>/slurm, a job array in <out>/slurm.
Exit code: that of the job with --follow, else 0; 1 refused by SLURM, 2 wrong options or configuration.
"""


@terminal.told
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = arguments(sys.argv[1:] if argv is None else argv)
    with extras.explained():
        from dist_rmd.cluster.jobs import launch
    return launch(options)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line, with defaults from the user's file of options.  Raises ConfigError."""
    options = _parser().parse(argv)
    if options.gpus and options.tasks_per_node:
        how = "--gpus-per-node" if options.gpus_per_node else "--sbatch gres=gpu:..."
        raise ConfigError(f"{how} and --tasks-per-node: there is one task for each GPU, leave one of them out")
    options.config, options.overrides = command_line.configuration(options.words)
    return options


def _parser() -> JobParser:
    parser = JobParser(
        prog="dist-rmd slurm",
        description=__doc__,
        epilog=EPILOG,
    )
    parser.add_configuration()
    parser.add_argument("--name", help="the job's name (default: that of the run)")
    parser.add_argument(
        "--array",
        metavar="LIST",
        type=_elements,
        help="a job array, as for sbatch, such as 1,3,7 or 0-4%%2 (two at once); %%a in key=value stands for the "
        "element's number: name=run-%%a seed=%%a",
    )
    parser.add_argument(
        "--torchrun", action="store_true", help="one torchrun on each node, which starts the ranks, in place of SLURM"
    )
    parser.add_argument("--force", action="store_true", help="as for python -m dist_rmd.train")
    parser.add_argument("--follow", action="store_true", help="show state and log until the end; ctrl-C leaves the job")
    parser.add_argument("--local", action="store_true", help="on this machine, without SLURM")
    parser.add_argument("--dry-run", action="store_true", help="print the job's script, submit and write nothing")
    parser.add_job_options()
    return parser


class Elements(NamedTuple):
    """Elements of a job array: the text of --array, and the numbers in ascending order."""

    text: str
    numbers: list[int]


def _elements(text: str) -> Elements:
    """Parse elements of a job array such as 1,3-9:2%4: `:2` takes every second number, `%4` runs four at once."""
    if not ELEMENTS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0-4%2, 1,3,7 or 0-9:3")
    numbers: set[int] = set()
    for part in text.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        numbers.update(range(int(first), int(last or first) + 1, int(step or 1)))
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} has no elements")
    return Elements(text, sorted(numbers))


if __name__ == "__main__":
    sys.exit(terminal.run(main))
