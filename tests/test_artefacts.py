import pytest
import torch

from dist_rmd import artefacts
from dist_rmd.engine.checkpoint import save_tensors
from dist_rmd.errors import DataError


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
    artefacts.publish(own, shared, "abc")  # nothing there yet
    artefacts.save(own, shared, {"key": "abc"})
    shared.unlink()
    artefacts.publish(own, shared, "another")
    assert not shared.exists()
    artefacts.publish(own, shared, "abc")
    assert artefacts.load(shared)["key"] == "abc"


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
