from pathlib import Path

import numpy as np
import pytest
import torch
from support import small
from support.whole_runs import stopped

from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.errors import ConfigError
from dist_rmd.pipeline import folds
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.folds import out_of_fold
from dist_rmd.run.finished import FinishedRun

PARTS = np.arange(150) % 2


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    data, out = small.prepare(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("runs")
    return [*small.RECIPE, "data.reader=memory", f"data.path={data}", f"out={out}"]


@pytest.fixture(scope="module")
def run(words):
    assert main([*words, "name=run", "stages=[classifier]"]) == 0
    return FinishedRun(words_out(words) / "run")


def words_out(words):
    return Path(words[-1].removeprefix("out="))


def test_every_image_is_judged_by_a_network_that_has_not_seen_it(run, monkeypatch):
    dataset = open_dataset(run.config.data.path)
    monkeypatch.setattr(folds, "JUDGED", 200)  # 20 images at a time
    found = out_of_fold(run, dataset, PARTS).dense()
    assert found.shape == (150, 10)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(150))
    for part in (0, 1):
        fold = FinishedRun(run.folder.folds / f"{part + 1}-of-2")
        seen, held = fold.labels, part == PARTS
        np.testing.assert_array_equal(np.sort(seen.indices), np.sort(run.labels.indices[~held]))
        given = dict(zip(run.labels.indices.tolist(), run.labels.given.tolist(), strict=True))
        assert [given[index] for index in seen.indices.tolist()] == seen.given.tolist()
        pixels = dataset.images("train", run.labels.indices[held])
        own, mirrored = (fold.predict(list(images)).probabilities for images in (pixels, pixels[:, :, ::-1]))
        np.testing.assert_allclose(found[held], (own + mirrored) / 2, atol=1e-5)


def test_stopped_it_goes_on_and_finished_it_is_read_back(words, run, capsys):
    dataset = open_dataset(run.config.data.path)
    assert main([*words, "name=other", "stages=[classifier]"]) == 0
    other = FinishedRun(words_out(words) / "other")
    folder, name = other.folder.folds, "1-of-2"
    folder.mkdir()
    held = PARTS == 0
    view = other.labels
    LabelView(view.indices[~held], view.given[~held], view.true[~held], 10, view.origin).save(folder / f"{name}.npz")
    own = [
        f"out={folder}",
        f"name={name}",
        "stages=[classifier]",
        "task.epochs=1",
        "task.milestones=[75,90,105]",
        "data.per_class=null",
        "noise.kind=file",
        "noise.rate=0",
    ]
    assert stopped([*words, *own, f"noise.file={folder / name}.npz"], "classifier", 2) == 75
    ours, theirs = (out_of_fold(each, dataset, PARTS).dense() for each in (other, run))
    np.testing.assert_array_equal(ours, theirs)
    capsys.readouterr()
    out_of_fold(other, dataset, PARTS)
    assert capsys.readouterr().out.count("finished before, nothing to do") == 2


def test_a_run_that_has_not_said_how_to_train_a_classifier_is_refused(words):
    assert main([*words, "name=simsiam", "stages=[simsiam]", "simsiam.epochs=1"]) == 0
    run = FinishedRun(words_out(words) / "simsiam")
    with pytest.raises(ConfigError, match=r"--folds trains classifiers by the section task, which stages=\[simsiam\]"):
        out_of_fold(run, run.dataset(), PARTS)
