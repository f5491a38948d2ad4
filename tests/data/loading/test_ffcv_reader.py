"""FFCV's reader, and the traps around it: reused buffers, threads that stay, errors that hang, threads of torch."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from dist_rmd.data.loading import ffcv_reader
from dist_rmd.data.loading.ffcv_reader import BetonReader
from dist_rmd.data.loading.memory_reader import MemoryReader
from dist_rmd.errors import ConfigError, DataError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reader(beton) -> BetonReader:
    return BetonReader(beton[0], 1, CPU)


def shuffled(seed: int, *sizes: int) -> list[np.ndarray]:
    return np.split(np.random.default_rng(seed).permutation(203)[: sum(sizes)], np.cumsum(sizes)[:-1])


def test_serves_what_memory_serves_whatever_the_batch_sizes(reader, beton):
    memory = MemoryReader(beton[0], CPU)
    for seed, sizes in enumerate([(64, 64, 64, 11), (1,) * 20, (3, 50, 1, 100)]):
        batches = shuffled(seed, *sizes)
        for ours, theirs in zip(reader.read(batches), memory.read(batches), strict=True):
            assert all(map(torch.equal, ours, theirs))
            assert [x.dtype for x in ours] == [torch.uint8, torch.int64]


def test_batches_outlive_the_iteration(reader, beton):
    """FFCV itself serves 30 batches from 5 buffers."""
    batches = shuffled(0, *[6] * 30)
    got = list(reader.read(batches))
    time.sleep(0.05)
    for batch, (images, indices) in zip(batches, got, strict=True):
        assert torch.equal(images, beton[1][batch])
        assert indices.tolist() == batch.tolist()


def test_two_workers_serve_the_same_bits(reader, beton):
    batches = shuffled(1, 100, 100)
    for one, two in zip(reader.read(batches), BetonReader(beton[0], 2, CPU).read(batches), strict=True):
        assert all(map(torch.equal, one, two))


def test_a_second_beton_needs_no_second_compilation(reader, tmp_path, write_beton):
    list(reader.read([np.arange(3)]))
    compiled = list(ffcv_reader._copy.signatures)
    path = tmp_path / "test.beton"
    pixels = write_beton(path, 50, 8, seed=1)
    other = BetonReader(path, 1, CPU)
    (images, _), *_ = other.read([np.arange(50)])
    assert torch.equal(images, pixels)
    assert ffcv_reader._copy.signatures == compiled


def test_two_betons_can_be_read_at_the_same_time(reader, beton, tmp_path, write_beton):
    path = tmp_path / "test.beton"
    pixels = write_beton(path, 203, 8, seed=2)
    batches = shuffled(3, *[20] * 10)
    for batch, (ours, _), (other, _) in zip(
        batches, reader.read(batches), BetonReader(path, 1, CPU).read(batches), strict=True
    ):
        assert torch.equal(ours, beton[1][batch])
        assert torch.equal(other, pixels[batch])


def test_leaving_early_leaves_no_thread(reader):
    list(reader.read([np.arange(3)]))
    before = threading.active_count()
    for early in range(20):
        for seen, _ in enumerate(reader.read([np.arange(10)] * 8)):
            if seen == early % 8:
                break
        assert threading.active_count() == before


def test_leaving_early_does_not_read_the_rest(reader, monkeypatch):
    taken, batches = [], ffcv_reader._Epoch._until_closed

    def noted(epoch):
        for batch in batches(epoch):
            taken.append(batch)
            yield batch

    monkeypatch.setattr(ffcv_reader._Epoch, "_until_closed", noted)
    next(reader.read([np.arange(203)] * 500))
    assert 1 <= len(taken) < 50  # those that FFCV reads ahead


def test_the_end_is_an_end(reader):
    batches = reader.read([np.arange(3)])
    assert len(list(batches)) == 1
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(batches)
    assert list(reader.read([])) == []


@pytest.mark.timeout(20)
def test_an_error_in_the_reading_thread_arrives(reader, monkeypatch):
    list(reader.read([np.arange(3)]))
    (stage, outputs), *rest = reader._loader.code[0]
    calls = []

    def failing(**arguments):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("disk on fire\nand more")
        return stage(**arguments)

    monkeypatch.setattr(reader._loader, "code", ([(failing, outputs), *rest], reader._loader.code[1]))
    before = threading.active_count()
    served = []
    with pytest.raises(DataError, match=r"train.beton: FFCV cannot read it \(RuntimeError: disk on fire\)"):
        served.extend(reader.read([np.arange(5)] * 9))
    assert threading.active_count() == before


@pytest.mark.timeout(20)
def test_an_error_and_an_early_end_do_not_wait_for_each_other(reader, monkeypatch):
    """The queue is full when the thread fails, and nobody takes anything out of it."""
    list(reader.read([np.arange(3)]))
    (stage, outputs), *rest = reader._loader.code[0]
    calls = []

    def failing(**arguments):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("late")
        return stage(**arguments)

    monkeypatch.setattr(reader._loader, "code", ([(failing, outputs), *rest], reader._loader.code[1]))
    before = threading.active_count()
    batches = reader.read([np.arange(5)] * 9)
    next(batches)
    time.sleep(0.3)
    batches.close()
    assert threading.active_count() == before


def test_positions_that_do_not_exist(reader):
    with pytest.raises(DataError, match=r"train.beton: has 203 images, no image 203; "):
        next(reader.read([np.array([203])]))


def test_missing_and_truncated_betons(beton, tmp_path):
    with pytest.raises(DataError, match=r"absent.beton: No such file"):
        BetonReader(tmp_path / "absent.beton", 1, CPU)
    (tmp_path / "cut.beton").write_bytes(beton[0].read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"cut.beton: truncated or damaged"):
        BetonReader(tmp_path / "cut.beton", 1, CPU)


@pytest.mark.timeout(20)
def test_truncated_after_opening(tmp_path, write_beton):
    path = tmp_path / "shrinks.beton"
    write_beton(path, 20, 8)
    opened = BetonReader(path, 1, CPU)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"shrinks.beton: its size has changed"):
        next(opened.read([np.arange(5)]))


def test_more_workers_than_the_machine_has(beton):
    with pytest.raises(ConfigError, match=r"data.workers=1000: numba allows 1 to \d+"):
        BetonReader(beton[0], 1000, CPU)


def test_torchs_threads_stay_as_they_were_in_the_reading_thread(reader, monkeypatch):
    """Threads that start later inherit what was set last in any thread."""
    list(reader.read([np.arange(3)]))
    (stage, outputs), *rest = reader._loader.code[0]
    seen = []

    def watched(**arguments):
        seen.append(torch.get_num_threads())
        return stage(**arguments)

    monkeypatch.setattr(reader._loader, "code", ([(watched, outputs), *rest], reader._loader.code[1]))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        list(reader.read([np.arange(5)] * 2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [3, 3]


def test_torchs_threads_stay_as_they_were(beton):
    """In a fresh process: importing FFCV and making its Loader each change them."""
    script = f"""
import torch
torch.set_num_threads(3)
from pathlib import Path
import numpy as np
from dist_rmd.data.loading.ffcv_reader import BetonReader
assert torch.get_num_threads() == 3, "import"
batches = BetonReader(Path({str(beton[0])!r}), 1, torch.device("cpu")).read([np.arange(5)] * 9)
for images, _ in batches:
    assert torch.get_num_threads() == 3, "reading"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_one_process_compiles_serves_the_next(beton, tmp_path):
    """Also where two ranks that start at once compile the same."""
    script = f"""
from pathlib import Path
import numba.core.event
import numpy as np
import torch
with numba.core.event.install_recorder("numba:compile") as compiled:
    from dist_rmd.data.loading.ffcv_reader import BetonReader
    (images, _), = BetonReader(Path({str(beton[0])!r}), 2, torch.device("cpu")).read([np.arange(203)])
print(len(compiled.buffer), images.sum().item())
"""

    def start() -> subprocess.Popen:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)

    def outcome(process: subprocess.Popen) -> tuple[bool, int]:
        output, _ = process.communicate(timeout=120)
        compiled, pixels = output.split()
        return compiled != "0", int(pixels)

    pixels = beton[1].sum().item()
    first = [outcome(process) for process in (start(), start())]
    assert {found for _, found in first} == {pixels}
    assert any(compiled for compiled, _ in first)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert outcome(start()) == (False, pixels)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == kept != {}
