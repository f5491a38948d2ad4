import time

import pytest

from tools.bench_parts.timing import Stopwatch, tried, turns


def test_every_way_has_its_turn_in_every_round_after_a_warm_up():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = turns(ways, rounds=20, device="cpu", least=0.0)
    assert [len(of_one) for of_one in times.values()] == [20] * 3
    assert calls[:6] == list("aabbcc")
    rounds = ["".join(calls[i : i + 3]) for i in range(6, len(calls), 3)]
    assert len(rounds) == 20
    assert {"".join(sorted(one)) for one in rounds} == {"abc"}
    assert len(set(rounds)) > 1  # in random order


def test_a_short_way_is_repeated_and_the_mean_taken():
    calls = []
    times = turns({"short": lambda: [calls.append(0), time.sleep(0.001)]}, rounds=2, device="cpu", least=0.2)
    assert len(calls) > 2 + 2
    assert all(0.001 <= seconds < 0.1 for seconds in times["short"])


def test_a_split_has_all_phases_and_leaves_nothing_running():
    watch = Stopwatch("cpu")

    def way() -> None:
        watch.start()
        for phase in ("data wait", "forward", "data wait"):
            time.sleep(0.02)
            watch.mark(phase)

    seconds = watch.split(way)
    assert list(seconds) == list(Stopwatch.PHASES)
    assert seconds["data wait"] >= 0.04
    assert seconds["forward"] >= 0.02
    assert seconds["backward"] == 0
    way()
    assert watch.seconds == seconds
    with pytest.raises(ZeroDivisionError):
        watch.split(lambda: 1 / 0)
    assert not watch.running


def test_ways_that_fail_are_named_and_the_others_kept():
    calls = []
    makers = {
        "cannot be made": lambda: 1 / 0,
        "works": lambda: lambda: calls.append(0),
        "cannot be called": lambda: lambda: [][0],
    }
    ways, failed = tried(makers)
    assert list(ways) == ["works"]
    assert calls == [0]
    assert failed == {
        "cannot be made": "failed: ZeroDivisionError: division by zero",
        "cannot be called": "failed: IndexError: list index out of range",
    }
