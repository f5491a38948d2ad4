"""Makes names of classes, files and runs safe for the place where they are shown: Markdown, LaTeX, tables, pictures."""

import functools
import re
import warnings
from collections.abc import Iterable

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""characters that no line of text can hold: line ends, a terminal's commands, bytes that are no UTF-8"""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""beginnings of texts that a spreadsheet may compute, or even run, as formulas"""


def visible(text: str) -> str:
    r"""The text on one line, in letters that every UTF-8 file can hold; other characters become \n, \udce9 or such."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def markdown(text: str) -> str:
    """The text within a cell of a Markdown table."""
    return re.sub(r"([|*`])", r"\\\1", visible(text))


def spreadsheet(text: str) -> str:
    """The text in a cell of a .csv: an apostrophe precedes a text that a spreadsheet may take for a formula.

    A text with such an apostrophe gets another, so that no two texts become equal.
    """
    return f"'{text}" if text.lstrip("'").startswith(FORMULA) else text


def slurm_pattern(path: str) -> str:
    """The path within a file name pattern of sbatch and srun, where %n is the number of a node."""
    return path.replace("%", "%%")


def prepare_drawing(texts: Iterable[str]) -> None:
    """Let matplotlib draw these texts as they are, with fonts of this machine that have their letters.

    Warns once of letters that no font has.  matplotlib's own font has Latin, Greek and Cyrillic letters.
    """
    import matplotlib
    from matplotlib import font_manager

    matplotlib.rcParams["text.parse_math"] = False  # text between two dollars is no formula
    matplotlib.rcParams["font.family"] = own = ["DejaVu Sans"]
    letters = {letter for text in texts for letter in visible(text)} - _letters(font_manager.findfont(own[0]))
    fonts = [font for font in font_manager.fontManager.ttflist if "LastResort" not in font.name.replace(" ", "")]
    for font in sorted(fonts, key=lambda font: font.name) if letters else ():
        if found := letters & _letters(font.fname):
            matplotlib.rcParams["font.family"].append(font.name)
            letters -= found
    if letters:
        some = "".join(sorted(letters)[:10])
        warnings.warn(
            f"no font of this machine has the letters {some}, which are drawn as boxes; install one, such as Noto",
            stacklevel=2,
        )
        warnings.filterwarnings("ignore", message="Glyph .* missing from")


@functools.cache
def _letters(file: str) -> frozenset[str]:
    from matplotlib import font_manager

    try:
        return frozenset(map(chr, font_manager.get_font(file).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()
