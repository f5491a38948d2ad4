"""dist-rmd clean DIR: corrects the labels of a folder of images, and trains a network on the corrected labels."""

import functools
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import numpy as np

from dist_rmd import prepare, report
from dist_rmd.cli import command_line, terminal
from dist_rmd.cli.command_line import Parser
from dist_rmd.cli.paths import user_path
from dist_rmd.config import Config, sections
from dist_rmd.data.prepared import beton
from dist_rmd.errors import ConfigError, DataError, UserError
from dist_rmd.files import write_atomically
from dist_rmd.pipeline import command
from dist_rmd.run.finished import FinishedRun
from dist_rmd.run.folder import picture_path
from dist_rmd.stages._label_free import LabelFree
from dist_rmd.suspects.outcome import Outcome, Trained, outcome

CONFIG = "rmdnet/folder-cpu"
DESCRIPTION = """\
Find the wrong labels of a folder of images, and train a classifier on corrected labels.  DIR holds train/<class>/* and
test/<class>/*, or <class>/* alone.  The command takes these steps, and prints the command of each step:
  prepare    writes the images in the form that training reads                         OUT/data
  train      trains an encoder without labels, and a classifier on the given labels    OUT/given
  suspects   ranks all labels by how suspect they are, and makes a page to decide on   OUT/given/suspects.html
  train      trains the same classifier, in which suspect labels count less            OUT/cleaned
OUT/clean.html shows the results.  After a stop or a kill, the same command resumes.
"""
EPILOG = """\
examples:
  dist-rmd clean ~/pets
  dist-rmd clean ~/pets --labels labels.csv                    # with what you have decided on the page
  dist-rmd clean ~/pets rmdnet/folder --side 64 task.epochs=50
  dist-rmd clean ~/pets inputs.simclr=runs/other               # features that are there already
"""


@dataclass(frozen=True)
class Step:
    """A command, and the function that runs it in this process: words -> exit code."""

    program: str
    words: Sequence[str]
    run: Callable[[Sequence[str]], int]

    def __str__(self) -> str:
        return shlex.join(["dist-rmd", self.program, *self.words])


@dataclass(frozen=True)
class Features:
    """The stage without labels whose features judge the labels, and which the classifiers may start from.

    stage: its name.  brought: where its network is, if another run or program has trained it.
    start: whether the classifiers start from its network.
    """

    stage: str
    brought: str | None
    start: bool

    @classmethod
    def of(cls, config: Config) -> "Features":
        """What a configuration says.  Raises ConfigError where it names no stage without labels."""
        names = get_args(LabelFree)
        start = config.sections["task"].init_from
        for name in names:
            if name in config.inputs:
                return cls(name, config.inputs[name], start == name)
        for name in names:
            if name in config.stages:
                return cls(name, None, start == name)
        raise ConfigError(
            f"stages=[{','.join(config.stages)}]: clean needs features without labels: a configuration with one of "
            f"the stages {', '.join(names)}, or inputs.<stage>=<a run that has trained it>"
        )

    def given(self) -> list[str]:
        """Settings of the run on the given labels, which has the features."""
        if self.brought is None:
            return [f"stages=[{self.stage},classifier]"]
        # Stage relabel is there to read the features, for `suspects`; the classifier does not learn what it finds.
        own = [] if self.start else ["task.init_from=null"]
        return ["stages=[relabel,classifier]", f"relabel.teacher={self.stage}", *own]

    def later(self, given: Path) -> list[str]:
        """Settings of a run on other labels.  given: the run on the given labels."""
        if self.start:
            return [f"inputs.{self.stage}={self.brought or given}"]
        return [] if self.brought is None else ["task.init_from=null"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, or the exit code of the step that failed or was stopped."""
    parser = Parser(prog="dist-rmd clean", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("folder", type=user_path, metavar="DIR", help="folder of the images")
    parser.add_configuration()
    parser.add_argument(
        "--out", type=user_path, metavar="OUT", help="folder for all results (default: runs/<name of DIR>)"
    )
    parser.add_argument("--side", metavar="S", help="side of the images in training (default: 32), as in prepare")
    parser.add_argument("--skip-bad", action="store_true", help="leave out unreadable images, as in prepare")
    parser.add_argument(
        "--folds",
        default="3",
        metavar="N",
        help="number of classifiers that judge images they have not seen, as in suspects (default: 3; 0: none)",
    )
    parser.add_argument(
        "--labels",
        type=user_path,
        metavar="FILE",
        help="labels.csv that the page has saved: train on these labels, in OUT/decided",
    )
    try:
        args = parser.parse(sys.argv[1:] if argv is None else argv)
        config, overrides = command_line.configuration(args.words)
        _check(overrides)
        parsed = sections.parse(config or Path(CONFIG), overrides)  # reports mistakes before minutes of work
        features = Features.of(parsed)
        if not args.folder.is_dir():
            raise DataError(f"{args.folder}: no such folder")
        if features.brought and not Path(features.brought).exists():
            raise DataError(f"inputs.{features.stage}={features.brought}: no such file or folder")
        if args.folds not in ("0", "2", "3", "4", "5"):
            raise ConfigError(f"--folds {args.folds}: choose 2 to 5, or 0 for none")
        if args.labels and not args.labels.is_file():
            raise DataError(f"{args.labels}: no such file")
        out = args.out or Path("runs", args.folder.absolute().name)
        common = [str(config or CONFIG), f"out={out}", f"data.path={out / 'data'}", *overrides]
        steps = list(_steps(args, out, common, features))
        for number, step in enumerate(steps, 1):
            print(f"\n[{number}/{len(steps)}] {step}", flush=True)
            if code := step.run(step.words):
                print(f"clean: stopped in step {number}; the same command goes on from there", file=sys.stderr)
                return code
        _conclude(out, steps, "decided" if args.labels else "cleaned")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


def _check(overrides: Sequence[str]) -> None:
    """Raise ConfigError for overrides of keys that the steps set themselves."""
    for override in overrides:
        key = override.partition("=")[0]
        if key in ("name", "out", "stages", "data.path", "task.relabel") or key.startswith(("noise.", "relabel.")):
            raise ConfigError(f"{override}: clean sets {key} itself; type its steps one by one to have it otherwise")


def _steps(args: Namespace, out: Path, common: Sequence[str], features: Features) -> Iterator[Step]:
    data, given = out / "data", out / "given"
    if not beton.manifest_path(data).exists():
        words = ["folder", str(data), "--from", str(args.folder), "--unverified"]
        words += ["--side", args.side] if args.side else []
        yield Step("prepare", [*words, *["--skip-bad"] * args.skip_bad], prepare.main)
    yield Step("train", [*common, "name=given", *features.given()], command.main)
    suspects = functools.partial(_report, "suspects")
    yield Step("suspects", [str(given), "--folds", args.folds], suspects)
    if args.labels:
        labels = ["name=decided", "stages=[classifier]", "noise.kind=file", f"noise.file={args.labels}"]
    else:
        weighted = ["task.relabel=true", "relabel.keep=true", f"relabel.file={given / 'probabilities.npz'}"]
        labels = ["name=cleaned", "stages=[relabel,classifier]", *weighted]
    own = [word for word in common if not word.startswith("inputs")]  # which these stages do not all start from
    yield Step("train", [*own, *labels, *features.later(given)], command.main)


def _report(name: str, words: Sequence[str]) -> int:
    return report.main([name, *words], f"dist-rmd {name}")


def _conclude(out: Path, steps: Sequence[Step], name: str) -> None:
    """Write the page of results, and print the accuracy before and after."""
    given, cleaned = FinishedRun(out / "given"), FinishedRun(out / name)
    tag, before = _accuracy(given)
    _, after = _accuracy(cleaned)
    old, new = given.labels, cleaned.labels
    if name == "cleaned":
        doubted = cleaned.scores("relabel")[-1]["relabel/changed"]
        done = f"all {len(old):,} labels weighted; another class is more probable for {doubted:.1f} % of them"
    else:
        moved = int((new.given != old.given[np.searchsorted(old.indices, new.indices)]).sum())
        done = f"{moved:,} of {len(old):,} labels changed, {len(old) - len(new):,} images left out"
    content = Outcome(
        title=out.absolute().name, tag=tag, name=name, before=before, after=after,
        images=len(old), left=len(new), done=done, commands=[str(step) for step in steps],
    )  # fmt: skip
    page, (_, decide) = out / "clean.html", given.folder.suspects
    picture = picture_path(given.path, "suspects").read_bytes()
    text = outcome(content, picture, quote(decide.relative_to(out).as_posix()))
    write_atomically(page, lambda file: file.write(text.encode("utf-8", "surrogateescape")))
    print(
        f"\n{tag} of the classifier, last epoch: {before.last:.2f} with the given labels, {after.last:.2f} with the "
        f"{name} labels ({done})\n"
        f"{page}: the results; open the page in a browser\n"
        f"{decide}: decide yourself, save labels.csv, and repeat this command with --labels labels.csv"
    )


def _accuracy(run: FinishedRun) -> tuple[str, Trained]:
    """Name of the accuracy on test images, and the accuracy of the run's classifier."""
    scores = run.scores("classifier")
    tag = next(tag for tag in scores[-1] if tag.startswith("test/top1"))
    values = [score[tag] for score in scores]
    return tag, Trained(values[-1], max(values))


if __name__ == "__main__":
    # As in prepare: SIGTERM ends the command like an exception, so that half-written files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(terminal.run(main))
