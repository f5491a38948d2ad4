"""What the evaluations of one stage came to, in the words of every place that says it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """The first number of each evaluation, which is the stage's score, in percent."""

    tag: str
    """such as test/top1"""
    last: float
    """after the last epoch so far"""
    best: float
    """the highest of all evaluations so far"""
    epoch: int
    """the first one of that height"""
    test: float | None = None
    """test/top1 after the last epoch, where the score is of other images"""
    collapsed: bool = False
    """the network takes all test images for one class"""

    @classmethod
    def of(cls, scores: Sequence[Mapping[str, Any]]) -> "Score":
        """scores: what each evaluation has measured, the score first: {"epoch": 1, "step": 78, "test/top1": 31.2}."""
        last = scores[-1]
        tag = next(name for name in last if "/" in name)
        best = max((measured for measured in scores if tag in measured), key=lambda measured: measured[tag])
        test = None if tag.startswith("test/") else last.get("test/top1")
        return cls(tag, last[tag], best[tag], best["epoch"], test, last.get("test/predicted_classes") == 1)

    @property
    def short(self) -> str:
        """For the progress bar."""
        return f"{self.tag} {self.last:.2f}, best {self.best:.2f}"

    def __str__(self) -> str:
        held_out = " of held-out labels as given" if self.tag.startswith("val/") else ""
        unverified = " by labels that nobody has verified" if self.tag.endswith("_unverified") else ""
        said = f"{self.tag} {self.last:.2f} %{held_out}{unverified}, best {self.best:.2f} % (epoch {self.epoch})"
        said += "" if self.test is None else f"; test/top1 {self.test:.2f} %"
        return f"{said}; collapsed: one class for all test images" if self.collapsed else said
