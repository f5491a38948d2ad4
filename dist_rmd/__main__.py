"""dist-rmd COMMAND ...: all commands of the package as one program; `python -m dist_rmd.COMMAND` is the same."""

import difflib
import functools
import runpy
import sys
from collections.abc import Sequence

from dist_rmd import __version__
from dist_rmd.cli import terminal

COMMANDS = {
    "prepare": "write a dataset as .beton files, with labels, class names and a manifest",
    "train": "train the stages of one run; started again, go on from the newest checkpoint",
    "evaluate": "measure a run's networks on test images: accuracy, by class too, confusion, calibration",
    "predict": "classify images with a run's network, as a table",
    "export": "write a run's network for other programs: safetensors, ONNX, TorchScript",
    "report": "make tables and figures from run folders",
    "suspects": "find labels that are probably wrong, with a page to decide on",
    "clean": "correct the labels of a folder and train on them: prepare, train, suspects, train",
    "sweep": "train all runs of a grid, here or under SLURM; started again, go on with the missing runs",
    "slurm": "train as a SLURM job",
}
"""what each does; all of them are modules, and imported only when they are called"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.  Returns the exit code, unless the command ends the process with one."""
    terminal.begin()
    return terminal.run(functools.partial(_call, list(sys.argv[1:] if argv is None else argv)))


def _call(words: Sequence[str]) -> int:
    if words[:1] == ["--version"]:
        print(f"dist-rmd {__version__}")
    elif words[:1] in (["-h"], ["--help"]):
        print(_help())
    elif words[:1] and words[0] in COMMANDS:
        sys.argv = [f"dist-rmd {words[0]}", *words[1:]]
        runpy.run_module(f"dist_rmd.{words[0]}", run_name="__main__", alter_sys=True)
    else:
        print(f"error: {_mistake(words)}", file=sys.stderr)
        return 2
    return 0


def _mistake(words: Sequence[str]) -> str:
    if not words:
        return f"name a command: {', '.join(COMMANDS)}; dist-rmd --help says what they do"
    near = difflib.get_close_matches(words[0], COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
    return f"there is no command {words[0]!r}: {hint}"


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items())
    return (
        "usage: dist-rmd COMMAND ...\n\nDistributed training of image classifiers on wrongly labelled data.\n\n"
        f"{lines}\n\ndist-rmd COMMAND --help explains each; dist-rmd --version says which this is.\n"
        "On several processes: torchrun --nproc_per_node=8 -m dist_rmd.train ..."
    )


if __name__ == "__main__":
    sys.exit(main())
