import json

import pytest
import torch

from dist_rmd.config import sections
from dist_rmd.data.prepared.beton import Dataset
from dist_rmd.errors import ConfigError, DataError
from dist_rmd.models.encoder import encoder
from dist_rmd.run import artefacts, start
from dist_rmd.run.finished import FinishedRun
from dist_rmd.run.folder import RunFolder

SCORES = [{"epoch": 1, "step": 2, "test/top1": 40.0}, {"epoch": 2, "step": 4, "test/top1": 60.0}]


@pytest.fixture
def run(tmp_path):
    """A run folder with one finished stage, a classifier of the classes a and b at side 8."""
    config = sections.parse(None, ["stages=[classifier,rgrl]", "model.width=8", "model.name=resnet10"])
    start.describe(RunFolder(tmp_path), config, world=1, device="cpu")
    artefact = {
        "stage": "classifier",
        "key": "0123456789abcdef",
        "classes": ["a", "b"],
        "side": 8,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "model": {"name": "resnet10", "width": 8},
        "encoder": encoder("resnet10", 8).state_dict(),
        "head": torch.nn.Linear(64, 2).state_dict(),
        "scores": SCORES,
    }
    artefacts.save(tmp_path / "classifier" / "artefact.pt", tmp_path / "shared.pt", artefact)
    return FinishedRun(tmp_path)


def dataset(tmp_path, classes=("a", "b"), side=8):
    return Dataset(tmp_path, "made up", side, classes, (0.5,) * 3, (0.5,) * 3, {}, {}, {})


def test_networks_come_back(run, tmp_path):
    net = run.network("classifier", dataset(tmp_path), torch.device("cpu"))
    assert not net.training
    logits, features = net(torch.zeros(3, 3, 8, 8))
    assert (logits.shape, features.shape) == ((3, 2), (3, 64))
    weights = artefacts.load(tmp_path / "classifier" / "artefact.pt")["head"]["weight"]
    assert torch.equal(net.head.weight, weights)


def test_scores_are_the_artefacts_and_of_an_unfinished_stage_the_curves(run, tmp_path):
    records = [{"stage": "rgrl", "epoch": 1, "step": 2, "test/top1": 50.0}, {"stage": "simsiam", "epoch": 1, "step": 2}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert run.scores("classifier") == SCORES
    assert run.scores("rgrl") == records[:1]
    (tmp_path / "metrics.jsonl").unlink()
    assert run.scores("rgrl") == []


def test_only_finished_stages_are_listed(run):
    assert run.stages == ["classifier"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ("a", "b", "c")}, "trained for 2 classes.* has 3"),
        ({"classes": ("b", "a")}, "names or order differ"),
        ({"side": 32}, "side 8.*--side 8"),
    ],
)
def test_other_data_is_refused(run, tmp_path, change, words):
    with pytest.raises(DataError, match=words):
        run.network("classifier", dataset(tmp_path, **change), torch.device("cpu"))


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no run here"):
        _ = FinishedRun(tmp_path / "nowhere").config


def test_a_dataset_that_is_not_seen_from_here(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = r"no such dataset below .*; .* was trained on data/cifar10, as seen from where it was started: .*--data DIR"
    with pytest.raises(DataError, match=words):
        run.dataset()
    with pytest.raises(DataError, match=r"other: no such dataset below [^;]*; make it anew with [^;]*$"):
        run.dataset(tmp_path.relative_to(tmp_path) / "other")
