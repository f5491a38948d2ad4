"""A checkpoint is whole or absent, and never runs code."""

import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from dist_rmd.engine.checkpoint import Checkpoints, load_tensors, save_tensors
from dist_rmd.errors import CannotCreate, DataError


def state(value):
    return {"net": {"w": torch.full((1000,), float(value))}, "clock": {"step": value}}


def test_newest_comes_back_and_only_the_last_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.load_newest() is None
    for step in (5, 10, 15):
        checkpoints.save(step, state(step), world=2)
    assert checkpoints.load_newest()["clock"] == {"step": 15}
    assert torch.equal(checkpoints.load_newest()["net"]["w"], torch.full((1000,), 15.0))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        f"step-000000{step}{suffix}" for step in (10, 15) for suffix in (".json", ".pt")
    ]


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "half sidecar"])
def test_broken_newest_is_skipped_with_a_warning(tmp_path, harm):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1))
    newest = checkpoints.save(2, state(2))
    content = bytearray(newest.read_bytes())
    if harm == "truncate":
        newest.write_bytes(content[:-1])
    elif harm == "flip":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    elif harm == "empty":
        newest.write_bytes(b"")
    else:
        newest.with_suffix(".json").write_text('{"bytes":')
    with pytest.warns(UserWarning, match=r"step-00000002\.pt"):
        assert checkpoints.load_newest()["clock"] == {"step": 1}


def test_a_file_without_its_sidecar_was_never_finished(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(1, state(1)).with_suffix(".json").unlink()
    assert checkpoints.load_newest() is None


def test_all_broken_is_an_error_and_nothing_is_touched(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    path = checkpoints.save(1, state(1))
    path.write_bytes(b"rubbish")
    refused = pytest.raises(DataError, match="none of 1 checkpoints is valid")
    with pytest.warns(UserWarning, match=r"bytes instead of"), refused as caught:
        checkpoints.load_newest()
    assert caught.value.code == 65
    assert path.read_bytes() == b"rubbish"


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_code_in_a_file_never_runs(tmp_path):
    evil, witness = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"net": Payload(witness)}, evil)
    with pytest.raises(DataError, match=r"evil\.pt"):
        load_tensors(evil)
    evil.write_bytes(pickle.dumps(Payload(witness)))
    with pytest.raises(DataError):
        load_tensors(evil)
    assert not witness.exists()


def test_full_disk_is_named(tmp_path):
    """A real limit on file size, in a process of its own: torch reports it as a RuntimeError."""
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from dist_rmd.engine.checkpoint import save_tensors\n"
        "from dist_rmd.errors import WriteFailed\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    save_tensors(Path(sys.argv[1]), {'w': torch.zeros(100_000)})\n"
        "except WriteFailed as error:\n"
        "    print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "big.pt"], capture_output=True, text=True, check=True)
    assert "refused:" in done.stdout
    assert "big.pt" in done.stdout
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CannotCreate, match="file"):
        save_tensors(tmp_path / "file" / "a.pt", state(1))


def test_a_crash_at_any_call_of_the_write_leaves_a_valid_checkpoint(tmp_path):
    """_exit at the k-th fsync or rename of the second save: what is found is the first or the second, whole."""
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from dist_rmd.engine.checkpoint import Checkpoints\n"
        "checkpoints, left = Checkpoints(Path(sys.argv[1]), keep=2), int(sys.argv[2])\n"
        "checkpoints.save(1, {'clock': {'step': 1}})\n"
        "def dying(call):\n"
        "    def wrapped(*arguments):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if left < 0:\n"
        "            os._exit(9)\n"
        "        return call(*arguments)\n"
        "    return wrapped\n"
        "os.fsync, os.replace = dying(os.fsync), dying(os.replace)\n"
        "checkpoints.save(2, {'clock': {'step': 2}})\n"
    )
    found = []
    for k in range(7):
        folder = tmp_path / str(k)
        subprocess.run([sys.executable, "-W", "ignore", "-c", code, folder, str(k)], check=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(Checkpoints(folder, keep=2).load_newest()["clock"]["step"])
    assert found == sorted(found)
    assert found[0] == 1
    assert found[-1] == 2
