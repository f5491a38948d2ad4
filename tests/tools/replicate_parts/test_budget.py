import pytest

from tools.replicate_parts.budget import allowed
from tools.replicate_parts.step import Step


def step(name, least, most=0.0, weight=0.0):
    return Step(name, name, lambda work: None, {"cpu": least}, {"cpu": most} if most else {}, weight)


TRAININGS = [step("simsiam", 40, weight=2), step("relations", 60, weight=2), step("modul", 100, weight=4)]


@pytest.mark.parametrize(
    ("left", "total", "seconds"),
    [(500, 600, 90), (60, 600, 60), (500, 300, 90), (3000, 3600, 540)],
)
def test_a_step_with_a_limit_takes_up_to_it_and_longer_calls_stretch_it(left, total, seconds):
    assert allowed(step("checks", 30, most=90), "cpu", left, total, TRAININGS) == seconds


@pytest.mark.parametrize(
    ("left", "seconds"),
    [
        (800, 200),  # all three: 2 of 8
        (300, 75),  # relations would get 75, modul 150
        (200, 100),  # modul would get 100, relations 50: without modul 100 each
        (90, 90),  # two shares of 45 are too few for relations
    ],
)
def test_trainings_share_by_weight_and_the_last_give_way(left, seconds):
    assert allowed(TRAININGS[0], "cpu", left, 600, TRAININGS[1:]) == seconds
