"""What is said of jobs until they end; what SLURM itself says of them is tested in tests/launch."""

import pytest

from dist_rmd.cluster import state
from dist_rmd.cluster.state import State, follow, follow_all

RUNNING, DONE, FAILED = State("RUNNING on a1"), State("COMPLETED, exit code 0", 0), State("FAILED, exit code 70", 70)
SILENCE = State("unknown: Unable to contact slurm controller", known=False)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(state, "POLL", 0.01)


def plain(said):
    """Without the time of day."""
    return [line.partition("] ")[2] if line.startswith("[") else line for line in said]


def test_the_log_is_shown_to_its_end(tmp_path):
    states = iter([State("PENDING (Priority)"), RUNNING, RUNNING, FAILED])
    log, said = tmp_path / "log", []

    def look():
        with open(log, "a") as file:
            file.write("half a line")
        return next(states)

    assert follow(look, log, said.append) == 70
    assert plain(said) == ["PENDING (Priority)", "RUNNING on a1", 4 * "half a line", "FAILED, exit code 70"]


def test_nobody_waits_for_ever_for_a_slurm_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "SILENT", 0.1)
    said = []
    assert follow(lambda: SILENCE, tmp_path / "log", said.append) == 1
    assert follow_all(lambda: {"7_1": SILENCE}, lambda name: tmp_path / name, said.append) == 1
    assert plain(said) == [SILENCE.text, f"7_1: {SILENCE.text}"]


def test_of_several_jobs_the_failed_one_shows_the_end_of_its_log(tmp_path):
    looks = iter([{"7_1": RUNNING, "7_3": RUNNING}, {"7_1": FAILED, "7_3": RUNNING}, {"7_1": SILENCE, "7_3": DONE}])
    log, said = tmp_path / "7_1.log", []
    log.write_text("".join(f"line {number}\n" for number in range(50)))
    assert follow_all(lambda: next(looks), lambda name: tmp_path / f"{name}.log", said.append) == 70
    assert plain(said) == [
        "7_1: RUNNING on a1",
        "7_3: RUNNING on a1",
        "7_1: FAILED, exit code 70",
        *(f"    line {number}" for number in range(40, 50)),
        f"    ({log})",
        "7_3: COMPLETED, exit code 0",
    ]
