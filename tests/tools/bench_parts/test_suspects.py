from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import small

from dist_rmd.data.labels.view import noisy_view
from dist_rmd.data.prepared.beton import open_dataset
from tools.bench_parts import peers, suspects
from tools.bench_parts.settings import Settings


@pytest.fixture
def dataset(tmp_path):
    return open_dataset(small.prepare(tmp_path, open_images=800))


def settings(tmp_path):
    return Settings("cpu", 1, True, 2, tmp_path, tmp_path, (), ())


def test_every_kind_of_noise_has_its_rate(dataset):
    views = suspects.noises(dataset, seed=0)
    assert {name: round(view.noise_rate, 2) for name, view in views.items()} == {
        "symmetric 0.2": 0.2, "symmetric 0.4": 0.4, "pairflip 0.4": 0.4, "asymmetric 0.4": 0.2, "instance 0.4": 0.4,
        "openset 0.4, 0.5": 0.4,
    }  # fmt: skip


def test_the_least_scores_are_to_be_those_of_wrong_labels():
    wrong = np.arange(200) % 4 == 0
    perfect = suspects.judged(np.where(wrong, 0.0, 1.0) + np.arange(200) / 1000, wrong)
    assert perfect == {"AUROC": 1, "precision at 50": 1, "precision at 100": 0.5, "precision at N": 1}
    assert suspects.judged(np.where(wrong, 1.0, 0.0), wrong)["AUROC"] == 0


@pytest.mark.parametrize("absent", ["", "not installed: no cleanlab"])
def test_both_rank_the_same_labels_and_what_is_absent_is_said(dataset, tmp_path, monkeypatch, absent):
    """With features that show the true class, both find the wrong labels."""
    true = torch.from_numpy(np.where(dataset.labels("train") < 0, 0, dataset.labels("train")))
    features = torch.eye(10)[true] * 5 + torch.randn(len(true), 10, generator=torch.Generator().manual_seed(0)) + 1
    monkeypatch.setattr(suspects, "noises", lambda d, seed: {
        "noise": noisy_view(dataset.labels("train"), 10, "symmetric", 0.3, seed, per_class=60)
    })  # fmt: skip
    monkeypatch.setattr(peers, "missing", lambda library: absent)
    monkeypatch.setattr(suspects, "by_cleanlab", lambda x, view: {
        title: -(view.given != view.true).astype(float) for title in (suspects.CLEANLAB, suspects.MARGIN)
    })  # fmt: skip
    run = SimpleNamespace(folder=SimpleNamespace(path=Path("digits")))
    table = suspects.compared(run, dataset, features, settings(tmp_path))
    rows = {row.name: row for row in table.rows}
    found = rows["noise: ours"]
    assert len(found.seconds) == 2
    assert float(found.facts["AUROC"].split()[0]) > 0.99
    if absent:
        assert rows[suspects.CLEANLAB].absent == absent
        assert found.base is None
    else:
        assert rows[f"noise: {suspects.MARGIN}"].facts["precision at N"] == "1.000 (1.000..1.000)"
        assert found.base == f"noise: {suspects.CLEANLAB}"
