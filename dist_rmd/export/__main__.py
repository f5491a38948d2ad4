"""python -m dist_rmd.export RUN: writes a trained network as files for other programs."""

import sys
from collections.abc import Sequence
from pathlib import Path

from dist_rmd.cli import terminal
from dist_rmd.cli.command_line import Parser
from dist_rmd.cli.paths import user_path
from dist_rmd.errors import ConfigError
from dist_rmd.export.deployed import Deployed
from dist_rmd.export.formats import FORMATS, TOLERANCE, Exported, lines_for, metadata
from dist_rmd.export.key_names import NAMES
from dist_rmd.files import check_writable, write_atomically
from dist_rmd.run.finished import FinishedRun, load_run


@terminal.told
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see dist_rmd.errors)."""
    parser = Parser(
        prog="dist-rmd export",
        description="Write a run's network as files for other programs, compared with the network first, and print the "
        "lines of Python that load each.  docs/use.md says what is in them.",
    )
    parser.add_argument("run", type=user_path, metavar="RUN", help="a run folder, such as runs/digits")
    parser.add_argument(
        "--format",
        default="safetensors",
        metavar="LIST",
        help=f"one or several of {','.join(FORMATS)}, with commas between them (default: safetensors)",
    )
    parser.add_argument("--names", choices=NAMES, help="key names in the safetensors file (default: dist_rmd)")
    parser.add_argument("--softmax", action="store_true", help="onnx, torchscript: probabilities in place of logits")
    parser.add_argument("--stage", help="whose network (default: the classifier of the last finished stage with one)")
    parser.add_argument("--best", action="store_true", help="the network of the best epoch in place of the last one's")
    parser.add_argument("--out", type=user_path, metavar="DIR", help="default: the folder export in the run folder")
    given = parser.parse(sys.argv[1:] if argv is None else argv)
    formats = _formats(given.format)
    if given.names and "safetensors" not in formats:
        raise ConfigError(f"--names {given.names} is about the keys of safetensors, but --format is {given.format}")
    if given.softmax and formats == ["safetensors"]:
        raise ConfigError("--softmax is for onnx and torchscript: safetensors holds weights alone")
    run = load_run(given.run)
    export(run, formats, given.names or "dist_rmd", given.softmax, given.stage, given.best, given.out)
    return 0


def export(
    run: FinishedRun,
    formats: Sequence[str],
    names: str = "dist_rmd",
    softmax: bool = False,
    stage: str | None = None,
    best: bool = False,
    out: Path | None = None,
) -> None:
    """Write the network in every format, after the outputs of all files were compared with the network's.

    Raises UserError, and writes no file, if a format is impossible or its outputs differ.
    """
    saved = run.saved(stage or run.classifier(), best)
    if softmax and not saved.is_classifier:
        raise ConfigError(f"--softmax: stage {saved.origin.stage} has no classifier, but features")
    folder = out or run.folder.exported
    check_writable(folder)
    deployed = Deployed(saved, softmax)
    made: dict[Path, Exported] = {}
    for name in formats:
        suffix, make = FORMATS[name]
        options = {"names": names} if name == "safetensors" else {}
        made[folder / f"{saved.origin.stage}{suffix}"] = make(saved, deployed, **options)
    about = metadata(saved, deployed.output)
    print(f"{run.folder}: {saved.origin.stage} ({saved.when}), {len(saved.origin.classes)} classes")
    print(f"images: {about['images']}; resize: {about['resize']}")
    for path, exported in made.items():
        write_atomically(path, lambda file, content=exported.content: file.write(content))  # type: ignore[misc]
        print(f"\n{path} ({len(exported.content) / 1e6:.1f} MB): {_compared(exported)}\n")
        print("\n".join(f"    {line}" for line in lines_for(exported, path)))


def _formats(text: str) -> list[str]:
    """Parse the formats that `--format` names, each once.  Raises ConfigError for an unknown format."""
    names = [*dict.fromkeys(name.strip() for name in text.split(","))]
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"--format {text}: there is no format {name!r}: choose from {', '.join(FORMATS)}")
    return names


def _compared(exported: Exported) -> str:
    if exported.difference is None:
        return "not compared with the network, since onnxruntime is not installed: pip install 'dist_rmd[export]'"
    return f"its outputs are the network's up to {exported.difference:.1e} (at most {TOLERANCE:.0e} is let pass)"


if __name__ == "__main__":
    sys.exit(terminal.run(main))
