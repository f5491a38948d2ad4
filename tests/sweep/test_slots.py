"""What slots do with tasks is tested by whole sweeps, in tests/launch/test_sweep.py."""

import pytest

from dist_rmd.sweep.slots import Slots


@pytest.mark.parametrize(
    ("jobs", "ranks", "shares"),
    [
        (1, 1, [([0, 1, 2, 3], ["0"])]),
        (2, 1, [([0, 2], ["0"]), ([1, 3], ["5"])]),
        (3, 1, [([0, 3], ["0"]), ([1], ["5"]), ([2], ["0"])]),
        (2, 2, [([0, 2], ["0", "5"]), ([1, 3], ["0", "5"])]),
        (1, 3, [([0, 1, 2, 3], ["0", "5"])]),
    ],
)
def test_slots_share_cores_and_take_turns_on_gpus(jobs, ranks, shares):
    slots = Slots(jobs, ranks, print, lambda running: None)
    slots.cores, slots.gpus = [0, 1, 2, 3], ["0", "5"]
    assert [slots.share(slot) for slot in range(jobs)] == shares


def test_more_slots_than_cores_and_no_gpu():
    slots = Slots(3, 1, print, lambda running: None)
    slots.cores, slots.gpus = [4, 6], []
    assert [slots.share(slot) for slot in range(3)] == [([4], []), ([6], []), ([4, 6], [])]
