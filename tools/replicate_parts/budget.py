"""How many of the seconds that are left a step may take."""

from collections.abc import Sequence

from tools.replicate_parts.step import Step

USUAL = 600.0
"""seconds of a call for which the limits of steps are meant: longer calls stretch them"""


def allowed(step: Step, device: str, left: float, total: float, later: Sequence[Step]) -> float:
    """Seconds for `step` of the `left` ones of a call of `total`; `later` are the steps still to come.

    A step with a limit takes up to it.  The others share what is left by weight, of which the last ones get nothing
    where all of them together would get less than each needs.
    """
    if not step.weight:
        return min(left, step.most[device] * max(1.0, total / USUAL))
    sharing = [step, *(other for other in later if other.weight)]
    while len(sharing) > 1 and any(_share(other, sharing, left) < other.least[device] for other in sharing):
        sharing.pop()
    return _share(step, sharing, left)


def _share(step: Step, sharing: Sequence[Step], left: float) -> float:
    return left * step.weight / sum(other.weight for other in sharing)
