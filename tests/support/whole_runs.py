"""Whole runs that are disturbed, and what must be as if nothing had happened."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from dist_rmd.engine import faults
from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.engine.writers import read_metrics
from dist_rmd.pipeline.command import main
from dist_rmd.run.artefacts import load

# TensorBoard reads files in the order of their names: second, process, number.  Runs that this process starts within
# one second are in order if all numbers have as many digits.
event_file_writer._global_uid = event_file_writer.AtomicCounter(10**6)


@contextmanager
def fault(text: str):
    """Within it, training in this process has the fault."""
    os.environ[faults.VARIABLE] = text
    faults._fault.cache_clear()
    try:
        yield
    finally:
        del os.environ[faults.VARIABLE]
        faults._fault.cache_clear()


def stopped(arguments: Sequence[str], stage: str, step: int, signal: str = "SIGUSR2") -> int:
    """The exit code of a run in this process that is asked to stop after `step` optimizer steps of `stage`."""
    with fault(f"kind={signal},rank=0,step={step - 1},stage={stage}"):
        return main(arguments)


def assert_same(run: Path, undisturbed: Path, *stages: str, pictures: str = "train/views") -> None:
    """Same bits in networks, optimizers and curves; each step once.  pictures: the stages' only tag, empty for none."""
    for stage in stages:
        ours, theirs = (load(folder / stage / "artefact.pt") for folder in (run, undisturbed))
        assert ours["key"] == theirs["key"]
        assert_equal({**ours, "config": ""}, {**theirs, "config": ""}, stage)  # which names the folder
        saved, same = (Checkpoints(folder / stage / "checkpoints", 2).load_newest() for folder in (run, undisturbed))
        assert_equal(saved, same, f"checkpoint of {stage}")
    assert [timeless(r) for r in records(run, *stages)] == [timeless(r) for r in records(undisturbed, *stages)]
    for stage in stages:
        assert_board(run, stage, pictures)


def records(run: Path, *stages: str) -> list[dict]:
    return [record for record in read_metrics(run / "metrics.jsonl") if record["stage"] in stages]


def timeless(record: dict) -> dict:
    return {name: value for name, value in record.items() if not name.startswith("perf/")}


def assert_board(run: Path, stage: str, pictures: str) -> None:
    """TensorBoard shows every point of metrics.jsonl, once."""
    board = EventAccumulator(str(run / "tb" / stage), size_guidance={"scalars": 0, "images": 0})
    board.Reload()
    shown = {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    written: dict[str, list] = {}
    for record in records(run, stage):
        for tag, value in record.items():
            if "/" in tag:
                written.setdefault(tag, []).append((record["step"], torch.tensor(value).item()))  # float32, as there
    assert shown == written
    assert board.Tags()["images"] == [pictures][: len(pictures)]
    if pictures:
        evaluations = [record["step"] for record in records(run, stage) if any("test/" in tag for tag in record)]
        expected = [0] if pictures == "train/views" else evaluations
        assert [image.step for image in board.Images(pictures)] == expected


def assert_equal(ours, theirs, where: str) -> None:
    """Two trees of plain containers and tensors, to the bit."""
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(*pair, f"{where}[{number}]")
    else:
        assert ours == theirs, where


def tree(folder: Path) -> dict[str, tuple]:
    """Everything in a folder: times and contents."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(folder.rglob("*"))
    }
