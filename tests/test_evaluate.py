"""How good a run's networks are, in numbers and pictures, on any number of processes."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support import forked, small
from support.whole_runs import stopped
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_rmd.engine.checkpoint import Checkpoints
from dist_rmd.evaluate import SHOWN, Evaluated, main
from dist_rmd.evaluation._details import of
from dist_rmd.pipeline.runner import train


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [*small.RECIPE, "stages=[simsiam,classifier]", "data.reader=memory", f"data.path={data}", "name=a"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    return train(None, *words, f"out={tmp_path_factory.mktemp('runs')}")


def evaluated(capsys, *words, code=0):
    capsys.readouterr()  # what the training said
    assert main([*map(str, words), "--device", "cpu"]) == code
    return capsys.readouterr()


def test_numbers_by_class_and_the_picture_are_those_of_the_predictions(run, capsys):
    said = evaluated(capsys, run.path).out
    dataset = run.dataset()
    labels, p = dataset.labels("test"), run.predict(dataset.images("test")).probabilities
    right = p.argmax(1) == labels
    top5 = [label in np.argsort(-row)[:5] for row, label in zip(p, labels, strict=True)]
    assert f"classifier  test/top1 {100 * right.mean():.2f}  (last epoch, 2)\n" in said
    assert f"classifier  test/top5 {100 * np.mean(top5):.2f}  (last epoch, 2)\n" in said
    assert f"classifier  test/ece {of(p.astype(float), labels, 10).ece:.2f}  (last epoch, 2)\n" in said
    assert "classifier, by class  (last epoch, 2)\n" in said
    for label in range(10):
        mine = labels == label
        assert f"\n  {label}  {100 * right[mine].mean():6.2f} % of {mine.sum()} images" in said
    picture = run.folder.evaluation("classifier")
    assert said.endswith(f"{picture}\n")
    assert Image.open(picture).size[0] > 800
    board = EventAccumulator(str(run.folder.board("figures")), size_guidance={"images": 0})
    board.Reload()
    assert board.Tags()["images"] == ["figures/evaluation-classifier"]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_say_the_same(run, capsys, ranks):
    command = [str(run.path), "--device", "cpu", "--json"]
    one = json.loads(evaluated(capsys, run.path, "--json").out)
    done = forked.ranks(ranks, "dist_rmd.evaluate", *command)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout[done.stdout.index("{\n") : done.stdout.rindex("}") + 1]) == one
    classifier = one["stages"]["classifier"]
    assert classifier["network"] == "last epoch, 2"
    assert sum(map(sum, classifier["confusion"])) == sum(found["images"] for found in classifier["classes"]) == 360
    assert {*one["stages"]["simsiam"]["metrics"]} == {"test/knn_top1"}


def test_a_stopped_run_is_evaluated_at_its_newest_checkpoint(words, tmp_path, capsys):
    arguments = [*words, f"out={tmp_path}"]
    assert stopped(arguments, "simsiam", 5) == 75
    said = evaluated(capsys, tmp_path / "a").out
    assert "(newest checkpoint, epoch 2, step 5)" in said
    assert "simsiam  test/knn_top1 " in said
    assert stopped(arguments, "classifier", 6) == 75
    said = evaluated(capsys, tmp_path / "a").out.splitlines()
    assert said[0].endswith("(last epoch, 2)")
    assert said[1].startswith("classifier  test/top1 ")
    assert said[1].endswith("(newest checkpoint, epoch 2, step 6)")


def test_a_checkpoint_of_an_older_version_does_not_say_whose_it_is(words, tmp_path, capsys):
    assert stopped([*words, f"out={tmp_path}"], "classifier", 6) == 75
    folder = tmp_path / "a" / "classifier" / "checkpoints"
    checkpoints = Checkpoints(folder, 1)
    state = checkpoints.load_newest()
    del state["origin"]
    checkpoints.save(7, state)
    checkpoints.wait()
    said = evaluated(capsys, tmp_path / "a").out.splitlines()
    assert said[0].startswith("simsiam  test/knn_top1 ")
    assert said[1].startswith(f"classifier  {folder}: a checkpoint of an older version")


def test_a_run_that_has_nothing_yet_is_one_line(words, tmp_path, capsys):
    assert stopped([*words, f"out={tmp_path}"], "simsiam", 1) == 75
    for path in (tmp_path / "a" / "simsiam" / "checkpoints").iterdir():
        path.unlink()
    said = evaluated(capsys, tmp_path / "a", code=65).err
    assert said == f"error: {tmp_path / 'a'}: no stage of this run is finished, or has a checkpoint\n"
    assert "no run here" in evaluated(capsys, tmp_path, code=2).err


def test_numbers_are_said_where_no_picture_can_be_written(run, capsys, tmp_path):
    shutil.copytree(run.path, tmp_path / "copy", ignore=shutil.ignore_patterns("figures"))
    (tmp_path / "copy" / "figures").write_text("no folder")
    said = evaluated(capsys, tmp_path / "copy").out
    assert "classifier  test/top1" in said
    assert "no picture: " in said


def test_of_many_classes_the_worst_are_shown():
    rng = np.random.default_rng(0)
    p = rng.random((3000, 30)) + torch.eye(30).numpy()[np.arange(3000) % 30] * np.linspace(0.5, 2, 30)
    found = of(p / p.sum(1, keepdims=True), np.arange(3000) % 30, 30)
    names = tuple(f"class {label}" for label in range(30))
    lines = str(Evaluated("rgrl", "best epoch, 3", {}, names, found)).splitlines()
    assert lines[0] == f"rgrl, by class, the {SHOWN} with the lowest accuracy  (best epoch, 3)"
    assert len(lines) == 1 + SHOWN
    shown = [float(line.split("%")[0].split()[-1]) for line in lines[1:]]
    assert shown == sorted(shown)
    assert shown[-1] <= min(sorted(value for value in found.by_class if value is not None)[SHOWN:])
