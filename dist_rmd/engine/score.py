"""The score of a stage, by its evaluations, in the words of all places that show the score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """A stage's score in percent: the first metric of each evaluation."""

    tag: str
    """name of the metric, such as test/top1"""
    last: float
    """score after the last epoch so far"""
    best: float
    """highest score of all evaluations so far"""
    epoch: int
    """first epoch with the highest score"""
    test: float | None = None
    """test/top1 after the last epoch, where the score is measured on other images"""
    collapsed: bool = False
    """whether the network predicts the same class for all test images"""

    @classmethod
    def of(cls, scores: Sequence[Mapping[str, Any]]) -> "Score":
        """From the metrics of each evaluation, the score first: {"epoch": 1, "step": 78, "test/top1": 31.2}."""
        last = scores[-1]
        tag = next(name for name in last if "/" in name)
        best = max((measured for measured in scores if tag in measured), key=lambda measured: measured[tag])
        test = None if tag.startswith("test/") else last.get("test/top1")
        return cls(tag, last[tag], best[tag], best["epoch"], test, last.get("test/predicted_classes") == 1)

    @property
    def short(self) -> str:
        """A short text for the progress bar."""
        return f"{self.tag} {self.last:.2f}, best {self.best:.2f}"

    def __str__(self) -> str:
        held_out = " of held-out labels as given" if self.tag.startswith("val/") else ""
        unverified = " by labels that nobody has verified" if self.tag.endswith("_unverified") else ""
        said = f"{self.tag} {self.last:.2f} %{held_out}{unverified}, best {self.best:.2f} % (epoch {self.epoch})"
        said += "" if self.test is None else f"; test/top1 {self.test:.2f} %"
        return f"{said}; collapsed: one class for all test images" if self.collapsed else said
