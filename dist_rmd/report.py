"""python -m dist_rmd.report [WHAT] [--OPTION VALUE ...] RUN...: tables and figures from run folders."""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from dist_rmd import terminal
from dist_rmd.errors import ConfigError, UserError
from dist_rmd.registry import available, lookup


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see dist_rmd.errors)."""
    words = list(sys.argv[1:] if argv is None else argv)
    is_named = bool(words) and (words[0] in available("reports") or _is_table(words[0]))
    what = words.pop(0) if is_named else "summary"
    try:
        # table1 is the report `table` of a sweep that has to be table1
        fixed = {"grid": what} if _is_table(what) else {}
        report = lookup("reports", "table" if fixed else what)
        options = _parse(_parser(what, report, fixed, is_named), words)
        print(report([Path(run) for run in options.pop("runs")], **options, **fixed))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return 0


def _is_table(word: str) -> bool:
    return re.fullmatch(r"table\d+", word) is not None


def _parser(what: str, report: Callable[..., str], fixed: dict[str, str], is_named: bool) -> ArgumentParser:
    """Of one report, whose keyword-only parameters are its options; not named: the help is about all of them."""
    command, about = "dist-rmd report", inspect.getdoc(report) or ""
    result = ArgumentParser(
        prog=f"{command} {what}" if is_named else command,
        usage=None if is_named else f"{command} [WHAT] [--OPTION VALUE ...] RUN [RUN ...]",
        description=about if is_named else "Tables and figures from run folders.",
        epilog=None if is_named else _listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    result.add_argument("runs", nargs="*", metavar="RUN", help=_meaning("runs", about))
    for name, parameter in inspect.signature(report).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and name not in fixed:
            meaning = _meaning(name, about)
            result.add_argument(f"--{name}", type=parameter.annotation, default=parameter.default, help=meaning)
    return result


def _meaning(parameter: str, about: str) -> str:
    """What a docstring says of a parameter in a line `parameter: ...`."""
    line = re.search(rf"^{parameter}: (.*?)\.?$", about, re.MULTILINE)
    return line[1] if line else ""


def _listing() -> str:
    lines = {kind: _first_line(kind) for kind in available("reports")}
    lines["tableN"] = "The same of a sweep that must be the grid of that name: table1, table2, ..."
    listing = "\n".join(f"  {kind:<10} {line}" for kind, line in sorted(lines.items()))
    return f"WHAT is one of\n{listing}\nWithout it: summary.  WHAT --help lists its options."


def _first_line(kind: str) -> str:
    """Of a report's docstring, or why there is no such report here."""
    try:
        return (inspect.getdoc(lookup("reports", kind)) or "").partition("\n")[0]
    except ConfigError as error:
        return str(error)


def _parse(parser: ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    try:
        options = dict(vars(parser.parse_args(words)))
    except argparse.ArgumentError as error:
        raise ConfigError(f"{' '.join(str(error).split())} (see {parser.prog} --help)") from None
    if not options["runs"]:
        raise ConfigError(f"name at least one run folder (see {parser.prog} --help)")
    return options


if __name__ == "__main__":
    sys.exit(terminal.run(main))
