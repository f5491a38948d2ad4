"""A checkpoint is whole or absent, the newest valid one is found, and none ever runs code."""

import hashlib
import json
import pickle
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.disks import make_read_only, tmpfs
from support.torchrun import child_environment
from torch import nn

from dist_rmd.engine import checkpoint
from dist_rmd.engine.checkpoint import Checkpoints, load_tensors, save_tensors
from dist_rmd.errors import CannotCreate, DataError, WriteFailed


def state(value, size=1000):
    return {"net": {"w": torch.full((size,), float(value))}, "clock": {"step": value}}


def filled(folder, *steps, keep=9):
    """The checkpoints of `folder` after saving `steps`."""
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, state(step))
    checkpoints.wait()
    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps(folder):
    """Steps of the finished checkpoints."""
    return sorted(int(path.stem[5:13]) for path in folder.glob("step-*.pt") if path.with_suffix(".json").exists())


def tree_hash(folder):
    """Stands for the names, contents and modification times of all files."""
    return hashlib.sha256(
        b"".join(
            f"{path.name} {path.stat().st_mtime_ns}".encode() + path.read_bytes() for path in sorted(folder.iterdir())
        )
    ).hexdigest()


# Saving and loading


def test_newest_comes_back_with_its_facts(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new", keep=2)
    assert checkpoints.load_newest() is None
    for step in (5, 10, 15):
        checkpoints.save(step, state(step), score=step / 100, world=2)
    newest = checkpoints.load_newest()
    assert newest["clock"] == {"step": 15}
    assert torch.equal(newest["net"]["w"], torch.full((1000,), 15.0))
    assert names(tmp_path / "new") == [f"step-000000{step}{suffix}" for step in (10, 15) for suffix in (".json", ".pt")]
    content = (tmp_path / "new" / "step-00000015.pt").read_bytes()
    assert json.loads((tmp_path / "new" / "step-00000015.json").read_text()) == {
        "step": 15,
        "score": 0.15,
        "world": 2,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_networks_optimizers_and_plain_containers_come_back(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    plain = {
        "list": [1, 2.5, "a", None, True, b"x"],
        "tuple": (1, (2,)),
        "ordered": OrderedDict(a=1),
        "rng": torch.get_rng_state(),
    }
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"net": net.state_dict(), "optimizer": optimizer.state_dict(), **plain})
    loaded = checkpoints.load_newest()
    assert torch.equal(loaded.pop("rng"), plain.pop("rng"))
    assert {name: loaded[name] for name in plain} == plain
    assert type(loaded["ordered"]) is OrderedDict
    assert loaded["net"]._metadata == net.state_dict()._metadata
    assert loaded["net"]["0.weight"].is_contiguous(memory_format=torch.channels_last)
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other.load_state_dict(loaded["net"])
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    assert loaded["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.raises(TypeError, match=r"state\['memory'\]\[1\] is a float64"):
        checkpoints.save(1, {"memory": [1, torch.rand(2).double().numpy()[0]]})
    with pytest.raises(TypeError, match=r"state\['out'\] is a PosixPath"):
        checkpoints.save(1, {"out": Path("runs")})
    assert names(tmp_path) == []


def test_saving_copies_at_once_and_writes_in_the_background(tmp_path, monkeypatch):
    may_write = threading.Event()

    def held_back(path, content):
        assert may_write.wait(60)
        save_tensors(path, content)

    monkeypatch.setattr(checkpoint, "save_tensors", held_back)
    checkpoints, first = Checkpoints(tmp_path, keep=2), state(1)
    first["list"] = [1]
    checkpoints.save(1, first)  # comes back although nothing can be written yet
    assert names(tmp_path) == []
    first["net"]["w"].fill_(-1)
    first["clock"]["step"] = -1
    first["list"].append(-1)
    threading.Timer(0.2, may_write.set).start()
    checkpoints.save(2, state(2))  # waits for the first
    assert may_write.is_set()
    assert "step-00000001.json" in names(tmp_path)
    checkpoints.wait()
    assert steps(tmp_path) == [1, 2]
    (tmp_path / "step-00000002.json").unlink()
    with pytest.warns(UserWarning, match="never finished"):
        loaded = checkpoints.load_newest()
    assert torch.equal(loaded["net"]["w"], state(1)["net"]["w"])
    assert (loaded["clock"], loaded["list"]) == ({"step": 1}, [1])


# What is broken


HARMS = {
    "empty": lambda path: path.write_bytes(b""),
    "10 bytes": lambda path: path.write_bytes(path.read_bytes()[:10]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "all but one byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit flipped": lambda path: flip(path, path.stat().st_size // 2),
    "half sidecar": lambda path: path.with_suffix(".json").write_text('{"bytes":'),
    "sidecar of something else": lambda path: path.with_suffix(".json").write_text("[1]"),
}


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [*HARMS, "no sidecar"])
def test_a_broken_newest_is_skipped_with_a_warning(tmp_path, harm):
    checkpoints = filled(tmp_path, 1, 2)
    newest = tmp_path / "step-00000002.pt"
    HARMS.get(harm, lambda path: path.with_suffix(".json").unlink())(newest)
    with pytest.warns(UserWarning, match=r"step-00000002\.pt: .*skipped"):
        assert checkpoints.load_newest()["clock"] == {"step": 1}


@pytest.mark.parametrize("harm", HARMS)
def test_all_broken_is_an_error_and_nothing_is_touched(tmp_path, harm):
    checkpoints = filled(tmp_path, 1, 2, 3)
    for path in tmp_path.glob("*.pt"):
        HARMS[harm](path)
    before = tree_hash(tmp_path)
    refused = pytest.raises(DataError, match="none of 3 checkpoints is valid")
    with pytest.warns(UserWarning, match="skipped"), refused as caught:
        checkpoints.load_newest()
    assert caught.value.code == 65
    assert tree_hash(tmp_path) == before


def test_a_first_save_cut_short_is_no_checkpoint(tmp_path):
    filled(tmp_path, 1)
    (tmp_path / "step-00000001.json").unlink()
    with pytest.warns(UserWarning, match="never finished"):
        assert Checkpoints(tmp_path, keep=3).load_newest() is None


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_code_in_a_file_never_runs(tmp_path):
    evil, witness = tmp_path / "step-00000001.pt", tmp_path / "ran"
    for write in (
        lambda: torch.save({"net": Payload(witness)}, evil),
        lambda: evil.write_bytes(pickle.dumps(Payload(witness))),
    ):
        write()
        sidecar = {"step": 1, "score": 1.0, "bytes": evil.stat().st_size}
        evil.with_suffix(".json").write_text(
            json.dumps(sidecar | {"sha256": hashlib.sha256(evil.read_bytes()).hexdigest()})
        )
        with pytest.raises(DataError, match=r"00001\.pt: not readable"):
            load_tensors(evil)
        with pytest.raises(DataError, match=r"00001\.pt: not readable"):
            Checkpoints(tmp_path, keep=1).load_best()
        with pytest.warns(UserWarning, match="not readable"), pytest.raises(DataError, match="none of 1"):
            Checkpoints(tmp_path, keep=1).load_newest()
    assert not witness.exists()
    pickle.loads(evil.read_bytes())  # the payload does what it says
    assert witness.exists()


# What is kept


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.best() is None
    with pytest.raises(DataError, match="no checkpoint with a score"):
        checkpoints.load_best()
    for step, score in enumerate([None, 0.5, 0.75, float("nan"), 0.75, 0.25, None], start=1):
        checkpoints.save(step, state(step), score=score)
    assert checkpoints.best() == (3, 0.75)
    assert checkpoints.load_best()["clock"] == {"step": 3}
    assert steps(tmp_path) == [3, 6, 7]
    assert Checkpoints(tmp_path, keep=2).best() == (3, 0.75)  # read from the folder
    flip(tmp_path / "step-00000003.pt", 1000)
    with pytest.raises(DataError, match=r"step-00000003\.pt: content does not match"):
        checkpoints.load_best()


def test_a_step_saved_again_is_replaced(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for value in range(1, 13):
        checkpoints.save(7, state(value), score=1 / value)
        assert checkpoints.load_newest()["clock"] == {"step": value}
        assert checkpoints.best() == (7, 1 / value)
    assert names(tmp_path) == ["step-00000007.12.json", "step-00000007.12.pt"]


def test_broken_ones_do_not_count(tmp_path):
    """Two of four are broken and newer: with keep=2, the two valid ones must not make room for them."""
    filled(tmp_path, 1, 2, 3, 4)
    for step in (3, 4):
        flip(tmp_path / f"step-0000000{step}.pt", 1000)
    checkpoints = Checkpoints(tmp_path, keep=2)
    with pytest.warns(UserWarning, match="SHA-256"):
        assert checkpoints.load_newest()["clock"] == {"step": 2}
    assert steps(tmp_path) == [1, 2, 3, 4]  # nothing is deleted before something new is there
    checkpoints.save(5, state(5))
    checkpoints.wait()
    assert steps(tmp_path) == [2, 5]


def test_a_name_is_not_broken_for_ever(tmp_path):
    filled(tmp_path, 1, 3)
    flip(tmp_path / "step-00000003.pt", 1000)
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.warns(UserWarning, match="SHA-256"):
        checkpoints.load_newest()
    checkpoints.save(2, state(2))  # the broken one goes
    checkpoints.save(3, state(3))
    assert checkpoints.load_newest()["clock"] == {"step": 3}
    assert names(tmp_path) == ["step-00000003.json", "step-00000003.pt"]


def test_later_ones_that_nobody_found_broken_stay(tmp_path):
    filled(tmp_path, 1, 2, 4)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, state(3))
    checkpoints.wait()
    assert steps(tmp_path) == [3, 4]


def test_a_failed_delete_is_survived(tmp_path):
    checkpoints = filled(tmp_path, 1, keep=1)
    stubborn = tmp_path / "step-00000001.pt"
    stubborn.unlink()
    stubborn.mkdir()  # which unlink refuses
    checkpoints.save(2, state(2))
    with pytest.warns(UserWarning, match=r"step-00000001\.pt: cannot be deleted \(Is a directory\)"):
        checkpoints.wait()
    assert checkpoints.load_newest()["clock"] == {"step": 2}
    stubborn.rmdir()
    checkpoints.save(3, state(3))
    checkpoints.wait()
    assert names(tmp_path) == ["step-00000003.json", "step-00000003.pt"]


SAVE = st.tuples(st.just("save"), st.integers(0, 3), st.sampled_from([None, 0.25, 0.5, 0.75]))
BREAK = st.tuples(st.sampled_from(["flip", "truncate", "half sidecar", "purge", "purge sidecar"]), st.integers(0, 5))
RESTART = st.tuples(st.just("restart"))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.lists(st.one_of(SAVE, SAVE, BREAK, RESTART), max_size=12))
def test_no_history_loses_the_last_valid_one(keep, history):
    """Against a model: `valid` maps each intact file to what was saved in it."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_history(Path(folder), keep, history)


def check_history(folder, keep, history):
    checkpoints, valid, step = Checkpoints(folder, keep), {}, 0
    for number, (what, *details) in enumerate(history):
        if what == "save":
            before = set(folder.glob("*.json"))
            advance, score = details
            step += advance  # 0 saves the same step again
            scored = [facts for path, facts in valid.items() if facts["step"] != step and facts["score"] is not None]
            checkpoints.save(step, {"number": number}, score=score)
            checkpoints.wait()
            remaining = {path: facts for path, facts in valid.items() if path.exists()}
            (sidecar,) = set(folder.glob("*.json")) - before
            valid = remaining | {sidecar.with_suffix(".pt"): {"step": step, "score": score, "number": number}}
            assert len(steps(folder)) <= keep + 1
            # The best of all valid ones has survived, unless a broken one with a better score hides it.
            best = checkpoints.best()
            assert not scored or best[1] >= max(facts["score"] for facts in scored)
        elif what == "restart":
            checkpoints = Checkpoints(folder, keep)
        elif valid:
            path = sorted(valid)[details[0] % len(valid)]
            del valid[path]
            harm(what, path)
        if not valid:
            if steps(folder):  # all broken: the run ends here
                with pytest.raises(DataError, match="is valid"):
                    checkpoints.load_newest()
                return
            assert checkpoints.load_newest() is None
            continue
        newest = max(valid.values(), key=lambda facts: (facts["step"], facts["number"]))
        assert checkpoints.load_newest() == {"number": newest["number"]}
        step = newest["step"]  # a run goes on from what it found


def harm(what, path):
    if what == "flip":
        flip(path, path.stat().st_size // 2)
    elif what == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif what == "half sidecar":
        path.with_suffix(".json").write_text('{"bytes":')
    elif what == "purge":
        path.unlink()
    else:
        path.with_suffix(".json").unlink()


# Crashes and kills


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """The folder that checkpoint_crashes.py left, and what it found after each kill."""
    folder = tmp_path_factory.mktemp("crashed")
    command = [sys.executable, "-m", "support.checkpoint_crashes", folder, "12"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120, env=child_environment())
    return folder, json.loads(done.stdout)


def test_a_crash_at_any_call_of_a_save_leaves_a_valid_checkpoint(crashed):
    """_exit at the k-th fsync, rename or unlink of the second save: what is found is the first or the second, whole."""
    histories = sorted((crashed[0] / "calls").iterdir())
    assert [history.name for history in histories] == ["keep-1-step-1", "keep-1-step-2", "keep-2-step-2"]
    for history in histories:
        found = []
        for folder in sorted(history.iterdir()):
            checkpoints = Checkpoints(folder, keep=1)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(checkpoints.load_newest()["which"])
            checkpoints.load_best()
            checkpoints.save(3, {"which": "third"})
            assert checkpoints.load_newest() == {"which": "third"}
            assert not list(folder.glob(".*"))
            assert 1 <= len(list(folder.glob("*.pt"))) == len(list(folder.glob("*.json"))) <= 2
        switch = found.index("new")
        assert 6 <= switch < len(found) - 1  # after two renames and four syncs; what follows is tidying up
        assert found == ["old"] * switch + ["new"] * (len(found) - switch)


def test_kills_at_random_moments_lose_no_checkpoint(crashed):
    newest, intact, cut_short = zip(*crashed[1], strict=True)
    assert len(newest) == 12
    assert all(intact)
    assert list(newest) == sorted(newest)
    assert newest[-1] > 12
    assert sum(cut_short) > 0  # some of the kills did come in the middle of a write


def test_a_process_that_ends_finishes_its_write(crashed):
    assert Checkpoints(crashed[0] / "end", keep=1).load_newest()["w"].sum() == 5_000_000


# Disks


def test_a_full_disk_costs_only_the_new_checkpoint(tmp_path):
    with tmpfs(tmp_path / "disk", "2m") as disk:
        checkpoints = Checkpoints(disk / "checkpoints", keep=2)
        checkpoints.save(1, state(1, 150_000))
        checkpoints.save(2, state(2, 500_000))  # 2 MB
        full = r"step-00000002\.pt: cannot be written \(No space left on device; \d MB free on its disk\)"
        with pytest.raises(WriteFailed, match=full) as caught:
            checkpoints.wait()
        assert caught.value.code == 74
        assert names(disk / "checkpoints") == ["step-00000001.json", "step-00000001.pt"]
        assert checkpoints.load_newest()["clock"] == {"step": 1}
        checkpoints.save(3, state(3, 150_000))  # the error was raised once; what fits is saved
        assert checkpoints.load_newest()["clock"] == {"step": 3}


def test_a_limit_on_file_size_costs_only_the_new_checkpoint(tmp_path):
    """As on a full disk, where nothing can be mounted."""
    code = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from dist_rmd.engine.checkpoint import Checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "checkpoints = Checkpoints(Path(sys.argv[1]), keep=1)\n"
        "checkpoints.save(1, {'step': 1})\n"
        "checkpoints.wait()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "checkpoints.save(2, {'w': torch.zeros(100_000)})\n"
        "try:\n"
        "    checkpoints.save(3, {'step': 3})\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"WriteFailed {tmp_path}/step-00000002.pt: cannot be written (File too large; ")
    assert names(tmp_path) == ["step-00000001.json", "step-00000001.pt"]
    assert Checkpoints(tmp_path, keep=1).load_newest() == {"step": 1}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints", keep=1)
    checkpoints.save(1, state(1))
    with pytest.raises(CannotCreate, match="Not a directory"):
        checkpoints.wait()


def test_a_read_only_folder_can_be_read(tmp_path):
    with tmpfs(tmp_path / "disk", "2m") as disk:
        checkpoints = filled(disk, 1)
        make_read_only(disk)
        checkpoints.save(2, state(2))
        with pytest.raises(
            CannotCreate, match=r"step-00000002\.pt: cannot be created \(Read-only file system\)"
        ) as caught:
            checkpoints.wait()
        assert caught.value.code == 73
        assert checkpoints.load_newest()["clock"] == {"step": 1}
