import json
import time
from dataclasses import replace

import pytest

from tools.replicate_parts.record import Entry, Record
from tools.replicate_parts.step import Work
from tools.replicate_parts.training import SPARE, START, Run, curve, epochs_that_fit, scores, show, thinned

RUN = Run("CE", "ce", "classifier", "task", 1000, "test/top1", (), ((),))


@pytest.fixture
def work(tmp_path):
    record = Record(tmp_path / "out", "cpu", "few", {}, "a CPU", {"relations": Entry("relations", "Relations")})
    return Work(
        "cpu", None, "digits", tmp_path, record, record.entries["relations"], time.monotonic() + 120, lambda: False
    )


def write(work, *points, cut=""):
    folder = RUN.folder(work)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.metrics.write_text("".join(json.dumps(point) + "\n" for point in points) + cut)


def test_epochs_fill_the_time_that_is_left_after_the_start(work):
    assert epochs_that_fit(work, RUN, rate=1000) == pytest.approx(SPARE * (120 - START), abs=1)
    assert epochs_that_fit(work, RUN, share=0.5, rate=1000) == pytest.approx(SPARE * (60 - START), abs=1)
    assert epochs_that_fit(work, RUN, rate=1) == 1


def test_a_run_that_has_begun_keeps_its_epochs(work):
    RUN.folder(work).path.mkdir(parents=True)
    RUN.folder(work).config.write_text("task: {epochs: 17}\n")
    assert epochs_that_fit(work, RUN, rate=1000) == 17


def test_what_a_curve_says_is_shown_as_it_grows(work):
    points = [{"stage": "classifier", "epoch": 0, "step": 50, "perf/images_per_s": 900.0, "train/loss": 2.0}]
    write(work, *points, cut='{"stage": "cl')
    assert curve(RUN.folder(work).metrics, "classifier") == points
    show(work, RUN, epochs=4)
    (table,) = work.entry.shown
    assert table.rows[0].facts == {"epochs": "0 of 4", "images/s": "900"}
    measured = [
        {"stage": "classifier", "epoch": e, "step": 50 * e, "test/top1": t}
        for e, t in ((1, 40.0), (2, 50.0), (3, 45.5))
    ]
    write(work, *points, {"stage": "other", "epoch": 9, "test/top1": 99.0}, *measured)
    show(work, RUN, epochs=4)
    last, by_epoch = work.entry.shown
    assert last.rows[0].facts == {"epochs": "3 of 4", "images/s": "900", "last": "45.50", "best": "50.00 (epoch 2)"}
    assert by_epoch.rows[0].facts == {"epoch 1": "40.00", "epoch 2": "50.00", "epoch 3": "45.50"}
    assert scores(work, RUN) == {1: 40.0, 2: 50.0, 3: 45.5}
    assert json.loads((work.record.folder / "replicate.json").read_text())["steps"][0]["tables"]
    show(work, replace(RUN, title="again"), epochs=4)
    assert [row.name for row in work.entry.shown[0].rows] == ["CE", "again"]


def test_some_epochs_of_many_the_last_among_them():
    assert thinned([1, 2, 3]) == [1, 2, 3]
    assert thinned(range(1, 21)) == [2, 5, 8, 11, 14, 17, 20]
