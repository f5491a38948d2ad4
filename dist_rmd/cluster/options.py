"""Options of a SLURM job: from the command line, and defaults from a file that the user has written for all jobs."""

import argparse
import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dist_rmd.cli.command_line import Parser
from dist_rmd.cli.paths import home
from dist_rmd.config.key_types import fit
from dist_rmd.errors import ConfigError
from dist_rmd.text import plain_yaml

SITE = ".config/dist_rmd/slurm.yaml"
"""file below the home folder with options for all jobs of the user"""
NAME = re.compile(r"[a-z][a-z0-9-]*")
SAID = (
    "nodes",
    "gpus-per-node",
    "cpus-per-task",
    "mem",
    "time",
    "partition",
    "account",
    "qos",
    "constraint",
    "comment",
)
OWN = {
    **{name: f"is an option of its own: --{name}" for name in SAID},
    "ntasks-per-node": "is an option of its own: --tasks-per-node",
    "job-name": "is an option of its own: --name, where a sweep does not choose it",
    "array": "is an option of its own: --array, where a sweep does not choose it",
    **{name: "follows from the nodes and the tasks on each" for name in ("ntasks", "gpus", "gpus-per-task")},
    **{name: "is what stopping, going on and following a job rest on" for name in (
        "signal", "requeue", "no-requeue", "open-mode", "output", "error", "wait", "wrap", "parsable", "quiet"
    )},
}  # fmt: skip
"""options of sbatch that --sbatch refuses, and why"""
TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")


class JobParser(Parser):
    """A command line parser whose `parse` also reads the options in the file SITE."""

    _own: tuple[str, ...] = ()
    """options of a job that this command line has"""
    _known: tuple[str, ...] = ()
    """all options of a job"""

    def add_job_options(self, without: Collection[str] = ()) -> None:
        """Add all options of a job except the ones named in `without`."""
        number: dict[str, Any] = {"type": positive, "metavar": "N"}
        options: dict[str, dict[str, Any]] = {
            "nodes": {"help": "machines (default 1)", "default": 1, **number},
            "gpus-per-node": {"help": "GPUs of each (dist-rmd slurm: one task for each GPU)", **number},
            "tasks-per-node": {"help": "tasks on each, where there are no GPUs (default 1)", **number},
            "cpus-per-task": {
                "help": "cores for each task, also set as OMP_NUM_THREADS unless that is set", **number
            },
            "mem": {"help": "memory on each machine, such as 64G", "metavar": "SIZE"},
            "time": {
                "help": "until it is requeued, in SLURM's formats, such as 12:00:00 or 1-12 or 90", "type": _minutes
            },
            "partition": {"help": "as for sbatch; so are the next four", "metavar": "NAME"},
            "account": {"help": "whom it is charged to", "metavar": "NAME"},
            "qos": {"help": "quality of service", "metavar": "NAME"},
            "constraint": {"help": "features the machines must have", "metavar": "LIST"},
            "comment": {"help": "free text", "metavar": "TEXT"},
            "setup": {
                "help": "a line for the shell before training, such as 'module load cuda'; repeatable",
                "metavar": "CMD", "action": "append", "default": [],
            },
            "sbatch": {
                "help": "any other option of sbatch: gres=gpu:a100:4, reservation=NAME, exclusive, ...; repeatable",
                "metavar": "NAME[=VALUE]", "action": "append", "default": [], "type": _named,
            },
            "srun": {
                "help": "an argument of the srun that starts the tasks: --srun=--container-image=FILE; repeatable",
                "metavar": "ARGUMENT", "action": "append", "default": [], "type": _argument,
            },
        }  # fmt: skip
        self._known = tuple(options)
        self._own = tuple(name for name in options if name not in without)
        group = self.add_argument_group(
            "options of a SLURM job",
            f"each can be given in ~/{SITE} for all jobs, such as `account: vision`; setup, sbatch and srun are lists "
            "there",
        )
        for name in self._own:
            group.add_argument(f"--{name}", **options[name])

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse a command line, whose options override the options in the file SITE.  Raises ConfigError.

        The result also has `gpus`, the GPUs of each machine, from --gpus-per-node or --sbatch gres=gpu:TYPE:N.
        """
        given = super().parse([*(self._site(folder / SITE) if (folder := home()) else []), *argv])
        typed = next((n for name, value in reversed(given.sbatch) if name == "gres" and (n := _gpus(value))), None)
        if given.gpus_per_node and typed:
            raise ConfigError(
                "--gpus-per-node and --sbatch gres=gpu:...: both say how many GPUs, leave one of them out"
            )
        given.gpus = given.gpus_per_node or typed
        return given

    def _site(self, path: Path) -> list[str]:
        """Read the options in the file `path` as words of a command line.  Raises ConfigError."""
        if not path.exists():
            return []
        given = plain_yaml.read(path) or {}
        if not isinstance(given, dict):
            raise ConfigError(f"{path}: expected lines such as `account: vision`")
        words = []
        for name, value in given.items():
            if name not in self._known:
                near = difflib.get_close_matches(name, self._known, 1)
                raise ConfigError(f"{path}: unknown option {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
            if name in self._own:
                given_once = value if isinstance(value, list) else [value]
                words += [f"--{name}={fit(f'{path}: {name}', one, str)}" for one in given_once]
        alone = JobParser(prog=self.prog)
        alone.add_job_options()
        try:
            alone.parse_args(words)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        return words


def _named(text: str) -> tuple[str, str | bool]:
    """Parse an option of sbatch: NAME=VALUE, or NAME alone for an option without a value."""
    name, equals, value = text.removeprefix("--").partition("=")
    name = name.replace("_", "-")
    if not NAME.fullmatch(name) or (equals and not value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME or NAME=VALUE, as sbatch has them after --")
    if own := OWN.get(name):
        raise argparse.ArgumentTypeError(f"{name} {own}")
    return name, value if equals else True


def _argument(text: str) -> str:
    if not text.startswith("-"):
        raise argparse.ArgumentTypeError(f"{text!r} is no option of srun: --srun=--NAME=VALUE")
    return text


def _gpus(gres: str | bool) -> int | None:
    """Number of GPUs per machine in a value of gres such as gpu, gpu:4, gpu:a100:4 or nvme:1,gpu:2; None: no GPU."""
    for resource in str(gres).split(","):
        kind, *more = resource.partition("(")[0].split(":")
        if kind == "gpu":
            return int(more[-1]) if more and more[-1].isdecimal() else 1
    return None


def positive(text: str) -> int:
    """Parse an integer >= 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _minutes(text: str) -> int:
    """Convert a time limit of SLURM's to minutes, rounded up: minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s."""
    if not TIME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of SLURM's formats: minutes, minutes:seconds, hours:minutes:seconds, days-hours, "
            "days-hours:minutes, days-hours:minutes:seconds"
        )
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    largest = 3600 if days or len(parts) == 3 else 60
    seconds = 86400 * int(days or 0) + sum(part * largest // 60**i for i, part in enumerate(parts))
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all")
    return -(-seconds // 60)
