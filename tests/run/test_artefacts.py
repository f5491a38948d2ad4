import numpy as np
import pytest
import torch

from dist_rmd.engine.checkpoint import save_tensors
from dist_rmd.errors import DataError
from dist_rmd.run import artefacts


def test_key_follows_every_determinant_and_not_their_order():
    base = {"stage": "simsiam", "seed": 0, "sections": {"simsiam": {"lr": 0.03}}}
    assert artefacts.key_of(base) == artefacts.key_of(dict(reversed(base.items())))
    others = [{**base, "seed": 1}, {**base, "sections": {"simsiam": {"lr": 0.06}}}, {**base, "labels": None}]
    assert len({artefacts.key_of(tree) for tree in [base, *others]}) == 4


def test_one_run_saves_and_another_adopts(tmp_path):
    shared = artefacts.shared_path(tmp_path, "simsiam", "abc")
    own = tmp_path / "first" / "artefact.pt"
    artefacts.save(own, shared, {"encoder": {"w": torch.ones(2)}})
    other = tmp_path / "second" / "artefact.pt"
    artefacts.adopt(other, shared)
    artefacts.adopt(other, shared)  # a run started again
    for path in (own, other, shared):
        assert torch.equal(artefacts.load(path)["encoder"]["w"], torch.ones(2))


def test_what_a_run_has_is_known_to_others_again(tmp_path):
    shared, own = artefacts.shared_path(tmp_path, "simsiam", "abc"), tmp_path / "first" / "artefact.pt"
    assert not artefacts.find(own, shared, "abc")  # nothing there yet
    artefacts.save(own, shared, {"key": "abc"})
    shared.unlink()
    assert not artefacts.find(own, shared, "another")
    assert not shared.exists()
    assert artefacts.find(own, shared, "abc")
    assert artefacts.load(shared)["key"] == "abc"


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[content.index(np.full(64, 7.0, np.float32).tobytes()) + 5] ^= 1  # a weight: torch.load would take it
    path.write_bytes(content)


def replaced(path):
    other = path.with_name("other.pt")
    save_tensors(other, {"format": artefacts.FORMAT, "key": "that of another stage"})
    path.write_bytes(other.read_bytes())


def foreign(path):
    path.write_text("<html>")


@pytest.mark.parametrize("damage", [cut, emptied, flipped, replaced, foreign])
def test_what_is_damaged_is_named_set_aside_and_made_again(tmp_path, damage):
    shared, own = artefacts.shared_path(tmp_path, "simsiam", "abc"), tmp_path / "first" / "artefact.pt"
    content = {"key": "abc", "stage": "simsiam", "encoder": {"w": torch.full([64], 7.0)}}
    artefacts.save(own, shared, content)
    assert artefacts.is_whole(shared, "abc")
    damage(shared)  # and with it the run's own, which is the same file
    assert not artefacts.is_whole(shared, "abc")
    with pytest.warns(UserWarning, match=r"simsiam-abc\.pt: .*; set aside as simsiam-abc\.pt\.broken, to be made"):
        assert not artefacts.find(own, shared, "abc")
    assert not shared.exists()
    artefacts.save(own, shared, content)
    assert artefacts.find(own, shared, "abc")


def test_the_copy_that_a_run_has_heals_the_shared_one(tmp_path):
    shared, own = artefacts.shared_path(tmp_path, "simsiam", "abc"), tmp_path / "first" / "artefact.pt"
    artefacts.save(own, shared, {"key": "abc"})
    shared.unlink()
    cut_copy = own.read_bytes()[:500]
    shared.write_bytes(cut_copy)
    with pytest.warns(UserWarning, match="set aside"):
        assert artefacts.find(own, shared, "abc")
    assert artefacts.is_whole(shared, "abc")


def test_a_result_that_cannot_be_shared_stays_with_its_run(tmp_path):
    (tmp_path / "artefacts").write_text("a file in place of the folder")
    shared, own = artefacts.shared_path(tmp_path, "simsiam", "abc"), tmp_path / "first" / "artefact.pt"
    with pytest.warns(UserWarning, match="artefacts.*other runs will train simsiam again"):
        artefacts.save(own, shared, {"key": "abc", "stage": "simsiam"})
    assert artefacts.load(own)["key"] == "abc"


def test_files_that_are_no_artefact_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        artefacts.load(tmp_path / "a.pt")
    save_tensors(tmp_path / "b.pt", {"anything": 1})
    with pytest.raises(DataError, match=r"b\.pt.*format"):
        artefacts.load(tmp_path / "b.pt")


def test_what_an_artefact_says_of_itself(tmp_path):
    said = {"classes": ["a", "b"], "side": 8, "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}
    artefacts.save(tmp_path / "own.pt", tmp_path / "shared.pt", {"stage": "teacher", "key": "k", **said})
    found = artefacts.origin(tmp_path / "own.pt")
    assert (found.stage, found.key, found.classes, found.side) == ("teacher", "k", ("a", "b"), 8)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    artefacts.save(tmp_path / "own.pt", tmp_path / "shared.pt", {"stage": "teacher", "key": "other", **said})
    assert artefacts.origin(tmp_path / "own.pt").key == "other"
    with pytest.raises(DataError, match=r"none\.pt: no artefact of a finished stage here"):
        artefacts.origin(tmp_path / "none.pt")
