"""Typesets tables of text as Markdown and as LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from dist_rmd.text import escapes

SYMBOLS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": r"\textbar{}", "—": "---",
    "±": r"$\pm$", "†": r"$^\dagger$", "‡": r"$^\ddagger$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Cells of text under headings."""

    stub: tuple[str, ...]
    """headings of the columns on the left, which name the rows"""
    columns: tuple[tuple[str, ...], ...]
    """headings of the other columns, from the general to the particular: ("symmetric", "0.1")"""
    groups: tuple[tuple[tuple[str, ...], ...], ...]
    """groups of rows; a row holds a text for each column"""


def markdown(table: Table) -> str:
    """The table as Markdown that is legible as plain text: all cells of a column are padded to equal width."""
    lines = [[*table.stub, *(" ".join(heading) for heading in table.columns)]]
    lines += [list(row) for group in table.groups for row in group]
    lines = [[escapes.markdown(text) for text in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = len(table.stub)

    def line(texts: Sequence[str]) -> str:
        padded = [
            text.ljust(width) if number < left else text.rjust(width)
            for number, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if number < left else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    return "\n".join([line(lines[0]), line(rule), *map(line, lines[1:])])


def latex(table: Table, caption: str, notes: Sequence[str] = ()) -> str:
    """The table as a LaTeX float, at most as wide as the text.  LaTeX needs the packages booktabs and graphicx."""
    left = len(table.stub)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(caption)}}}"]
    lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    lines += [rf"\begin{{tabular}}{{{'l' * left}{'r' * len(table.columns)}}}", r"\toprule"]
    lines += _headings(table)
    for group in table.groups:
        lines += [r"\midrule", *(" & ".join(map(escape, row)) + r" \\" for row in group)]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    lines += [rf"\par\smallskip{{\footnotesize\raggedright {escape(' '.join(notes))}\par}}"] if notes else []
    return "\n".join([*lines, r"\end{table}"])


def _headings(table: Table) -> list[str]:
    """LaTeX of the columns' headings: a line for each level, with a rule under each heading of several columns."""
    left, lines = len(table.stub), []
    levels = len(table.columns[0])
    for level in range(levels - 1):
        texts, rules, place = [""] * left, [], left + 1
        for heading, columns in groupby(table.columns, key=lambda column: column[: level + 1]):
            span = len(list(columns))
            texts.append(rf"\multicolumn{{{span}}}{{c}}{{{escape(heading[-1])}}}")
            rules.append(rf"\cmidrule(lr){{{place}-{place + span - 1}}}")
            place += span
        lines += [" & ".join(texts) + r" \\", "".join(rules)]
    return [*lines, " & ".join(map(escape, [*table.stub, *(c[-1] for c in table.columns)])) + r" \\"]


def escape(text: str) -> str:
    """`text` in LaTeX: characters that would be commands are escaped, characters that fonts may lack spelled out."""
    words = re.split(r"(->|(?<!\S)[-+](?=\d))", escapes.visible(text))  # arrows, and signs of numbers
    signs = {"->": r"$\to$", "-": "$-$", "+": "$+$"}
    plain = ["".join(SYMBOLS.get(letter, letter) for letter in word) for word in words[::2]]
    return plain[0] + "".join(signs[sign] + word for sign, word in zip(words[1::2], plain[1:], strict=True))
