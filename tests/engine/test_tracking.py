"""Trackers that break, hang or are slow: told of once, waited for by nobody."""

import threading

import pytest

from dist_rmd.engine import tracking
from dist_rmd.engine.tracking import Tracking
from dist_rmd.run.folder import RunFolder
from dist_rmd.trackers.base import Tracker


class Noting(Tracker):
    """Notes its calls; with a `gate`, waits before each of its scalars until the gate is open."""

    def __init__(self, gate=None, error=None):
        self.gate, self.error, self.calls = gate, error, []

    def begin(self, name, folder, configuration, identity):
        assert folder.is_dir()
        self.calls.append(("begin", name, identity))
        if self.error:
            raise self.error
        return identity or "7"

    def scalars(self, stage, step, values):
        if self.gate:
            self.gate.wait(60)
        self.calls.append((stage, step, values))

    def end(self, status):
        self.calls.append(("end", status))


@pytest.fixture
def said():
    return []


def followed(folder, said, *points, **trackers):
    followers = Tracking(RunFolder(folder), trackers, said.append)
    followers.begin("a", {})
    for step in points:
        followers.scalars("rgrl", step, {"train/loss": 0.5})
    return followers


def test_calls_come_in_order_and_the_id_stays(tmp_path, said):
    one, other = Noting(), Noting()
    followed(tmp_path, said, 1, 2, one=one).end("stopped")
    followed(tmp_path, said, 3, one=other).end("done")
    points = [("rgrl", step, {"train/loss": 0.5}) for step in (1, 2, 3)]
    assert one.calls == [("begin", "a", None), *points[:2], ("end", "stopped")]
    assert other.calls == [("begin", "a", "7"), *points[2:], ("end", "done")]
    assert said == []


def test_values_are_those_of_the_moment(tmp_path, said):
    gate, values = threading.Event(), {"train/loss": 0.5}
    tracker = Noting(gate)
    followers = followed(tmp_path, said, one=tracker)
    followers.scalars("rgrl", 1, values)
    values["train/loss"] = 0.0
    gate.set()
    followers.end("done")
    assert tracker.calls[1] == ("rgrl", 1, {"train/loss": 0.5})


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ConnectionError("no route\nto host"), "ConnectionError: no route to host"), (KeyboardInterrupt(), "Keyboard")],
)
def test_one_that_breaks_is_left_out_and_the_other_goes_on(tmp_path, said, error, reason):
    broken, whole = Noting(error=error), Noting()
    followed(tmp_path, said, 1, 2, one=broken, other=whole).end("done")
    assert len(broken.calls) == 1
    assert len(whole.calls) == 4
    (line,) = said
    assert line.startswith(f"log.also: one is left out from now on ({reason}")
    assert "\n" not in line
    assert RunFolder(tmp_path).read_tracker_id("one") is None


def test_nobody_waits_for_one_that_hangs(tmp_path, said, monkeypatch):
    monkeypatch.setattr(tracking, "PATIENCE", 0.2)
    gate = threading.Event()
    followed(tmp_path, said, 1, one=Noting(gate), other=Noting(gate)).end("done")  # comes back before the gate opens
    assert [line.partition(" is ")[0] for line in said] == ["log.also: one", "log.also: other"]
    assert "(it has not taken everything in within 0.2 s)" in said[0]
    gate.set()


def test_one_that_falls_behind_is_left_out(tmp_path, said, monkeypatch):
    monkeypatch.setattr(tracking, "ROOM", 5)
    gate = threading.Event()
    tracker = Noting(gate)
    followers = followed(tmp_path, said, *range(20), one=tracker)
    assert len(said) == 1
    assert "(it is 5 records behind)" in said[0]
    gate.set()
    followers.end("done")
    assert len(said) == 1
    assert ("end", "done") not in tracker.calls
