"""python -m dist_rmd.report [WHAT] [--OPTION VALUE ...] RUN...: tables and figures from run folders."""

import argparse
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from dist_rmd.cli import terminal
from dist_rmd.cli.command_line import Parser, meaning
from dist_rmd.cli.paths import user_path
from dist_rmd.config.key_types import fit, from_words
from dist_rmd.errors import ConfigError
from dist_rmd.registry import available, lookup
from dist_rmd.run.folder import RunFolder, runs_in
from dist_rmd.sweep.record import record_path


@terminal.told
def main(argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run the command line; returns the exit code (see dist_rmd.errors).

    program: what the user has called, if it is not `dist-rmd report`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    what = next((word for word in words if _is_report(word) and (word == words[0] or not Path(word).exists())), None)
    if what:
        words.remove(what)
    # table1 is the report `table` of a sweep that has to be table1
    fixed = {"grid": what} if what and _is_table(what) else {}
    report = lookup("reports", "table" if fixed else what or "summary")
    options = _parse(_parser(what, report, fixed, program), words)
    print(report(_runs(options.pop("runs")), **options, **fixed))
    return 0


def _runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders in `paths`; a folder that is no run, such as runs/, stands for the runs in it."""
    found: list[Path] = []
    for path in paths:
        inside = runs_in(path)
        if RunFolder(path).config.exists() or record_path(path).exists() or not (inside or _is_shared(path)):
            found.append(path)
        else:
            found += inside
    return found or list(paths)


def _is_shared(path: Path) -> bool:
    """Whether `path` is the folder of artefacts beside the runs, which the pattern runs/* names, too."""
    return path.name == "artefacts" and any(path.glob("*.pt"))


def _is_report(word: str) -> bool:
    return word in available("reports") or _is_table(word)


def _is_table(word: str) -> bool:
    return re.fullmatch(r"table\d+", word) is not None


def _parser(
    what: str | None, report: Callable[..., str], fixed: Mapping[str, str], program: str | None = None
) -> Parser:
    """The parser of a report, whose keyword-only parameters are the options; without a report, with help on all."""
    command, about = "dist-rmd report", inspect.getdoc(report) or ""
    result = Parser(
        prog=program or (f"{command} {what}" if what else command),
        usage=None if what else f"{command} [WHAT] [--OPTION VALUE ...] RUN [RUN ...]",
        description=about if what else "Tables and figures from run folders.",
        epilog=None if what else _listing(),
    )
    result.add_argument("runs", nargs="*", type=user_path, metavar="RUN", help=meaning("runs", about))
    result.add_options_of(report, lambda parameter: functools.partial(_option, parameter), but=fixed)
    return result


def _option(parameter: inspect.Parameter, text: str) -> Any:
    """Parse the text of an option of a report."""
    name, hint = parameter.name, parameter.annotation
    hint = get_args(hint)[0] if get_origin(hint) is tuple else hint
    try:
        return fit(name, from_words(name, text, hint), hint)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _listing() -> str:
    lines = {kind: _first_line(kind) for kind in available("reports")}
    lines["tableN"] = "The same of a sweep that must be the grid of that name: table1, table2, ..."
    listing = "\n".join(f"  {kind:<10} {line}" for kind, line in sorted(lines.items()))
    return f"WHAT is one of\n{listing}\nWithout it: summary.  WHAT --help lists its options."


def _first_line(kind: str) -> str:
    """The first line of a report's docstring, or the reason why the report is not available here."""
    try:
        return (inspect.getdoc(lookup("reports", kind)) or "").partition("\n")[0]
    except ConfigError as error:
        return str(error)


def _parse(parser: Parser, words: Sequence[str]) -> dict[str, Any]:
    options = dict(vars(parser.parse(words)))
    if not options["runs"]:
        raise ConfigError(f"name at least one run folder (see {parser.prog} --help)")
    return options


if __name__ == "__main__":
    sys.exit(terminal.run(main))
