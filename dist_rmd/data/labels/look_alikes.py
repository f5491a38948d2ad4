"""Finds names that look equal but differ: in case, in blanks, or in how Unicode spells their letters."""

import unicodedata
from collections.abc import Iterable


def _composed(name: str) -> str:
    return unicodedata.normalize("NFKC", name)


def _without_blanks(name: str) -> str:
    shown = (letter for letter in name if unicodedata.category(letter) != "Cf")  # Cf: marks of width zero
    return " ".join("".join(shown).replace("_", " ").split())


DIFFERENCES = {
    "upper and lower case": str.casefold,
    "blanks, underscores or invisible marks": _without_blanks,
    "how Unicode spells its letters": _composed,
}
"""how two names can differ -> the function that removes this difference"""


def _plain(name: str) -> str:
    for simplify in (_composed, str.casefold, _without_blanks, _composed):
        name = simplify(name)
    return name


def look_alike(name: str, others: Iterable[str]) -> str | None:
    """The first of `others` that looks like `name` but differs from it; None where there is none."""
    return next((other for other in others if other != name and _plain(other) == _plain(name)), None)


def difference(name: str, other: str) -> str:
    """How two names that look alike differ, in words."""
    found = []
    for words in DIFFERENCES:
        rest = [taken for said, taken in DIFFERENCES.items() if said != words]
        left, right = name, other
        for taken in rest:
            left, right = taken(left), taken(right)
        if left != right:
            found.append(words)
    return " and ".join(found) or "more than one way"
