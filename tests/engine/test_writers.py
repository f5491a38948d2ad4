import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from support import disks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_rmd.engine.clock import Clock
from dist_rmd.engine.writers import Writers, read_metrics
from dist_rmd.errors import CannotCreate, WriteFailed
from dist_rmd.run.folder import RunFolder


def steps_on_board(folder, tag="train/loss"):
    board = EventAccumulator(str(folder))
    board.Reload()
    return [event.step for event in board.Scalars(tag)]


def write(folder, steps, resumed_at=0, stage="rgrl"):
    writers = Writers(RunFolder(folder), stage, rank=0)
    writers.open(Clock(step=resumed_at))
    for step in steps:
        writers.scalars(Clock(step=step), {"train/loss": step / 10})
    writers.close()


def test_jsonl_and_tensorboard_agree(tmp_path):
    write(tmp_path, [1, 2, 3])
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert records == [{"stage": "rgrl", "epoch": 0, "step": s, "train/loss": s / 10} for s in (1, 2, 3)]
    assert steps_on_board(tmp_path / "tb" / "rgrl") == [1, 2, 3]


def test_each_step_stands_once_after_a_resume(tmp_path):
    write(tmp_path, [5], stage="simsiam")
    write(tmp_path, [1, 2, 3, 4])
    time.sleep(1.1)  # TensorBoard reads files in the order of the second in their names
    write(tmp_path, [3, 4, 5], resumed_at=2)
    steps = [(r["stage"], r["step"]) for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == [("simsiam", 5), *(("rgrl", s) for s in (1, 2, 3, 4, 5))]
    assert steps_on_board(tmp_path / "tb" / "rgrl") == [1, 2, 3, 4, 5]


def test_an_evaluation_that_is_still_due_is_forgotten(tmp_path):
    """It has its epoch's last step, like the curve's point before it, which stays."""
    writers = Writers(RunFolder(tmp_path), "rgrl", rank=0)
    writers.open(Clock())
    writers.scalars(Clock(step=4, epoch=0, batch=4), {"train/loss": 0.5})
    writers.scalars(Clock(step=4, epoch=1), {"test/top1": 90.0})
    writers.close()
    time.sleep(1.1)
    again = Writers(RunFolder(tmp_path), "rgrl", rank=0)
    again.open(Clock(step=4, epoch=0, batch=4))
    again.scalars(Clock(step=4, epoch=1), {"test/top1": 80.0})
    again.close()
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r.get("train/loss", r.get("test/top1")) for r in records] == [0.5, 80.0]
    assert steps_on_board(tmp_path / "tb" / "rgrl") == steps_on_board(tmp_path / "tb" / "rgrl", "test/top1") == [4]


def test_what_was_flushed_survives_a_kill(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from dist_rmd.engine.clock import Clock; from dist_rmd.engine.writers import Writers\n"
        "from dist_rmd.run.folder import RunFolder\n"
        "writers = Writers(RunFolder(Path(sys.argv[1])), 'rgrl', rank=0); writers.open(Clock())\n"
        "writers.scalars(Clock(step=1), {'train/loss': 0.5}); writers.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)]).returncode == -signal.SIGKILL
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    assert steps_on_board(tmp_path / "tb" / "rgrl") == [1]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    write(tmp_path, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"stage": "rgrl", "step": 3})[:-4])
    write(tmp_path, [3], resumed_at=2)
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_pictures_reach_tensorboard(tmp_path):
    writers = Writers(RunFolder(tmp_path), "simsiam", rank=0)
    writers.open(Clock())
    writers.images(Clock(), "train/views", torch.rand(20, 3, 10, 20))
    writers.close()
    board = EventAccumulator(str(tmp_path / "tb" / "simsiam"))
    board.Reload()
    (image,) = board.Images("train/views")
    assert (image.height, image.width) == (3 * 10, 8 * 20)


def test_what_a_computation_found_is_one_table_in_place_of_charts_of_one_point(tmp_path):
    for _ in range(2):  # the second one is told what the first one knew
        writers = Writers(RunFolder(tmp_path), "division", rank=0)
        writers.open(Clock())
        writers.scalars(Clock(), {"division/clean": 12.0, "division/precision_clean": 61.23456})
        writers.close()
    board = EventAccumulator(str(tmp_path / "tb" / "division"))
    board.Reload()
    assert board.Tags()["scalars"] == []
    text = board.Tensors("division/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text.splitlines() == ["| division | |", "|---|---|", "| clean | 12 |", "| precision_clean | 61.2346 |"]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["division/precision_clean"] == 61.23456


def test_other_ranks_write_nothing(tmp_path):
    writers = Writers(RunFolder(tmp_path), "rgrl", rank=1)
    writers.open(Clock())
    writers.scalars(Clock(step=1), {"train/loss": 1.0})
    writers.images(Clock(), "train/views", torch.rand(1, 3, 2, 2))
    writers.close()
    assert not any(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_a_full_disk_is_named(tmp_path):
    with disks.tmpfs(tmp_path / "disk", "256k") as disk:
        writers = Writers(RunFolder(disk), "rgrl", rank=0)
        writers.open(Clock())

        def fill():
            for step in range(100_000):
                writers.scalars(Clock(step=step), {"train/loss": 0.5})

        with pytest.raises(WriteFailed, match=r"disk: metrics cannot be written \(No space left"):
            fill()
        with contextlib.suppress(WriteFailed):
            writers.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_curves_that_a_full_disk_cut_short_are_taken_up_again(tmp_path):
    with disks.tmpfs(tmp_path / "run", "1m") as run, disks.tmpfs(run / "tb", "64k") as disk:
        writers = Writers(RunFolder(run), "rgrl", rank=0)
        writers.open(Clock())
        writers.scalars(Clock(step=1), {"train/loss": 0.5})
        writers.flush()
        (disk / "others").write_bytes(bytes((os.statvfs(disk).f_bavail - 1) * os.statvfs(disk).f_frsize))

        def fill():
            for step in range(2, 500):
                writers.scalars(Clock(step=step), {"train/loss": 0.5})
            writers.flush()

        with pytest.warns(UserWarning, match=r"tb/rgrl: TensorBoard's curves cannot be written \(No space") as said:
            fill()
        assert len(said) == 1
        (disk / "others").unlink()
        writers.flush()
        writers.scalars(Clock(step=500), {"train/loss": 0.5})
        writers.close()
        assert steps_on_board(disk / "rgrl") == list(range(1, 501))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(CannotCreate, match="run"):
        Writers(RunFolder(tmp_path / "run"), "rgrl", rank=0).open(Clock())
