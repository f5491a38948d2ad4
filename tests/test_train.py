"""Whole runs: the command line, the run folder, resuming, several ranks, and what bad input is told."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import small
from support.torchrun import torchrun
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_rmd import evaluate, report
from dist_rmd.config import sections
from dist_rmd.data.datasets.digits import digits
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.prepared.beton import write
from dist_rmd.engine.writers import read_metrics
from dist_rmd.pipeline.command import main
from dist_rmd.pipeline.resolved import check
from dist_rmd.run.artefacts import load

STAGES = "stages=[simsiam,classifier,rgrl]"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture
def arguments(data, tmp_path):
    return [*small.RECIPE, f"data.path={data}", f"out={tmp_path}", "data.reader=memory"]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """One run of all three stages on two ranks, through FFCV, in which using what torch has deprecated is a bug."""
    out = tmp_path_factory.mktemp("runs")
    command = ["-m", "dist_rmd.train", *small.RECIPE, STAGES, f"data.path={data}", f"out={out}", "name=a"]
    done = torchrun(2, *command, env={"PYTHONWARNINGS": "error::FutureWarning"})
    assert done.returncode == 0, done.stdout
    return out / "a", done.stdout


def test_a_start_imports_nothing_that_only_some_runs_need():
    """Every rank of every start pays for it; torch itself takes three seconds."""
    script = """
import sys
import torch
before = set(sys.modules)
import dist_rmd.pipeline.command
from dist_rmd.config.sections import sections
sections()
seldom = {"torch._dynamo", "torchvision", "sklearn", "scipy", "matplotlib", "numba", "ffcv", "cv2", "pandas"}
print(*(seldom & set(sys.modules)) - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []


def losses(folder, stage):
    return curve(folder, stage, "train/loss")


def curve(folder, stage, tag):
    return [r[tag] for r in read_metrics(folder / "metrics.jsonl") if r["stage"] == stage and tag in r]


def test_a_run_leaves_what_the_readme_promises(run):
    folder, output = run
    assert "simsiam -> classifier -> rgrl on 2 x CPU (fp32); 150 images, 10 classes, 40.0 % wrong labels" in output
    assert json.loads((folder / "exit.json").read_text())["code"] == 0
    assert json.loads((folder / "env.json").read_text())["world"] == 2
    for stage, evaluations in (("simsiam", "test/knn_top1"), ("classifier", "test/top1"), ("rgrl", "test/top1")):
        assert load(folder / stage / "artefact.pt")["classes"] == [str(digit) for digit in range(10)]
        assert len(losses(folder, stage)) == 2 * 4  # epochs x whole batches of 32 among 150
        board = EventAccumulator(str(folder / "tb" / stage))
        board.Reload()
        assert evaluations in board.Tags()["scalars"]
        assert {"train/loss", "train/lr", "perf/images_per_s", "perf/data_wait_frac"} <= set(board.Tags()["scalars"])
        assert board.Tags()["images"] == ["train/views"]


def test_labels_that_nobody_has_verified(arguments, tmp_path, capsys):
    """Nothing is measured against them, and everything says so; the test images are measured as ever."""
    data = small.prepare(tmp_path / "data", verified=False)
    own = [f"data.path={data}", "noise.rate=0", "stages=[simsiam,classifier]", "name=web"]
    assert main([*arguments, *own]) == 0
    assert "150 images, 10 classes, how many labels are wrong is not known" in capsys.readouterr().out
    folder = tmp_path / "web"
    view = LabelView.load(folder / "labels.npz")
    assert view.true is None
    assert view.origin == {"kind": "collected"}
    assert len(curve(folder, "simsiam", "test/knn_top1_unverified")) == 1
    assert curve(folder, "simsiam", "test/knn_top1") == []
    assert len(curve(folder, "classifier", "test/top1")) == 2
    for words in ([], ["--data", str(data)]):
        assert evaluate.main([str(folder), *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[:2] for line in lines[:2]] == [
            ["simsiam", "test/knn_top1_unverified"],
            ["classifier", "test/top1"],
        ]
    assert report.main(["summary", str(folder)]) == 0
    assert capsys.readouterr().out.count("| unknown | test/") == 2
    for kind in ("noise", "tsne"):
        assert report.main([kind, str(folder)]) == 65
        assert "the true labels are not known" in capsys.readouterr().err


def test_one_process_trains_the_same_network(run, arguments, tmp_path):
    """Same losses up to rounding as on two ranks, with memory in place of FFCV."""
    assert main([*arguments, "stages=[simsiam,classifier]", "name=one"]) == 0
    assert main([*arguments, "stages=[rgrl]", f"inputs.simsiam={run[0]}", "name=taught"]) == 0  # by the same teacher
    for name, stage in (("one", "simsiam"), ("one", "classifier"), ("taught", "rgrl")):
        mine, theirs = losses(tmp_path / name, stage)[:3], losses(run[0], stage)[:3]  # then rounding has grown
        np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-3)


def test_a_finished_run_started_again_reuses_everything(run, data):
    folder, _ = run
    before = (folder / "metrics.jsonl").read_bytes()
    command = [*small.RECIPE, STAGES, f"data.path={data}", f"out={folder.parent}", "name=a"]
    assert main(command) == 0
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert json.loads((folder / "exit.json").read_text())["code"] == 0


def with_fewer_test_images(folder):
    """The digits with 50 of their test images, prepared in `folder`."""
    source = digits(None, None)
    test = source.splits["test"]
    fewer = replace(test, labels=test.labels[:50], files=test.files[:50])
    write(replace(source, splits={**source.splits, "test": fewer}), folder)


@pytest.mark.parametrize(("accuracy", "is_same"), [("null", False), ("0.9", True)])
def test_what_depends_on_the_test_images_is_not_reused_with_others(data, tmp_path, accuracy, is_same):
    """DFND takes its teacher's accuracy on them, unless it is given."""
    with_fewer_test_images(tmp_path / "digits")
    words = [*small.RECIPE, "stages=[teacher,dfnd]", f"dfnd.accuracy={accuracy}", f"out={tmp_path}", "device=cpu"]
    one, two = (check(sections.parse(None, [*words, f"data.path={at}"])).keys for at in (data, tmp_path / "digits"))
    assert one["teacher"] == two["teacher"]
    assert (one["dfnd"] == two["dfnd"]) == is_same


def test_a_network_is_measured_anew_where_the_test_images_are_others(run, data, tmp_path, capsys):
    folder, _ = run
    with_fewer_test_images(tmp_path / "digits")
    command = [*small.RECIPE, STAGES, f"data.path={tmp_path / 'digits'}", f"out={folder.parent}", "name=fewer"]
    assert main(command) == 0
    assert capsys.readouterr().out.count("measured anew") == 3
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    other = folder.parent / "fewer"
    assert evaluate.main([str(other)]) == 0
    printed = capsys.readouterr().out
    for stage, tag in (("simsiam", "test/knn_top1"), ("classifier", "test/top1"), ("rgrl", "test/top1")):
        first, second = (load(place / stage / "artefact.pt") for place in (folder, other))
        assert first["key"] == second["key"]
        assert [score["epoch"] for score in second["scores"]] == [2]
        assert second["scores"][0][tag] in [2.0 * right for right in range(51)]
        assert f"{stage}  {tag} {second['scores'][0][tag]:.2f}" in printed
    taught = [*small.RECIPE, "stages=[rgrl]", f"inputs.simsiam={folder}", f"data.path={tmp_path / 'digits'}"]
    assert main([*taught, f"out={folder.parent}", "name=taught"]) == 0  # by a teacher that other images have measured
    brought, anew = (load(place / "simsiam" / "artefact.pt") for place in (folder.parent / "taught", other))
    assert brought["scores"][0]["test/knn_top1"] == anew["scores"][0]["test/knn_top1"]
    assert main([*taught, f"out={folder.parent}", "name=taught", f"data.path={data}"]) == 0
    brought, first = (load(place / "simsiam" / "artefact.pt") for place in (folder.parent / "taught", folder))
    assert brought["scores"] == first["scores"]
    assert main([*command, f"data.path={data}"]) == 0  # back to the images that they were first measured on
    assert "nothing to do" not in capsys.readouterr().out
    assert load(other / "rgrl" / "artefact.pt")["scores"] == load(folder / "rgrl" / "artefact.pt")["scores"]


def test_another_noise_reuses_the_teacher_alone(run, data, capsys):
    folder, _ = run
    command = [*small.RECIPE, STAGES, f"data.path={data}", f"out={folder.parent}", "name=b", "noise.rate=0.2"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "simsiam: finished before, reusing" in output
    assert "rgrl: finished before" not in output
    teachers = [load(folder.parent / name / "simsiam" / "artefact.pt")["key"] for name in ("a", "b")]
    assert teachers[0] == teachers[1]
    assert evaluate.main([str(folder.parent / "b"), "--device", "cpu", "--best"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "simsiam  no checkpoint of its best epoch here: another run trained it"
    assert [line.split()[0] for line in others if "test/top1" in line] == ["classifier", "rgrl"]


def test_evaluate_repeats_the_last_measurement(run, capsys):
    folder, _ = run
    assert evaluate.main([str(folder), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    for stage, tag in (("simsiam", "test/knn_top1"), ("classifier", "test/top1"), ("rgrl", "test/top1")):
        assert f"{stage}  {tag} {curve(folder, stage, tag)[-1]:.2f}" in printed


def test_evaluate_repeats_the_best_measurement(run, capsys):
    folder, _ = run
    assert evaluate.main([str(folder), "--device", "cpu", "--best"]) == 0
    printed = capsys.readouterr().out
    for stage, tag in (("simsiam", "test/knn_top1"), ("classifier", "test/top1"), ("rgrl", "test/top1")):
        assert f"{stage}  {tag} {max(curve(folder, stage, tag)):.2f}  (best epoch, " in printed


def test_report_shows_last_and_best(run, capsys):
    folder, _ = run
    assert report.main([str(folder)]) == 0
    table = capsys.readouterr().out
    accuracies = curve(folder, "rgrl", "test/top1")
    (row,) = [line for line in table.splitlines() if "RMDNet" in line]
    assert f"{accuracies[-1]:.2f}" in row
    assert f"{max(accuracies):.2f}" in row
    assert "CE+RMDNet (K=1)" in row
    assert "symmetric 0.4" in row


def test_report_draws_the_representations(run, capsys):
    folder, _ = run
    assert report.main(["tsne", str(folder)]) == 0
    picture = folder / "figures" / "tsne.png"
    assert capsys.readouterr().out.splitlines()[0] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    board = EventAccumulator(str(folder / "tb" / "figures"))
    board.Reload()
    assert "figures/tsne" in board.Tags()["images"]  # evaluate has drawn there too


def test_fp16_and_bf16_train(arguments, tmp_path):
    for precision in ("fp16", "bf16"):
        assert main([*arguments, "stages=[simsiam,rgrl]", f"name={precision}", f"precision={precision}"]) == 0
        assert all(np.isfinite(losses(tmp_path / precision, "rgrl")))


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("noise.ratte=0.4", 2, ["noise.ratte", "noise.rate"]),
        ("task.epochs=many", 2, ["task.epochs"]),
        ("noise.rate=1.5", 2, ["noise.rate", "1.5"]),
        ("stages=[rgrl]", 2, ["rgrl", "simsiam"]),
        ("stages=[simsiamm]", 2, ["simsiamm", "simsiam"]),
        ("loss.name=cee", 2, ["cee", "ce"]),
        ("loss.options.p=1", 2, ["loss.options", "ce"]),
        ("task.batch_size=4096", 2, ["task.batch_size", "4096", "150"]),
        ("task.batch_size=1", 2, ["task.batch_size", "at least 2"]),
        ("noise.kind=file", 2, ["noise.file"]),
        ("data.path=/nowhere", 65, ["/nowhere", "prepare"]),
    ],
)
def test_mistakes_are_one_line_with_the_right_code(arguments, capsys, tmp_path, override, code, words):
    assert main([*arguments, "stages=[classifier]", "name=bad", override]) == code
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert not (tmp_path / "bad").exists(), "found before any work"


def test_without_ffcv_the_other_reader_is_named(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dist_rmd.data.loading.ffcv_reader", None)
    assert main([*arguments, "stages=[classifier]", "data.reader=ffcv"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert line.startswith("error: data.reader=ffcv, but FFCV cannot be imported here (")
    assert line.endswith("): use data.reader=memory")
    assert json.loads((tmp_path / "run" / "exit.json").read_text())["code"] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")
def test_no_gpu_is_said(arguments, capsys):
    assert main([*arguments, "device=cuda"]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_labels_of_the_wrong_length_are_refused(arguments, capsys, tmp_path):
    np.save(tmp_path / "short.npy", np.zeros(7, np.int64))
    assert main([*arguments, "noise.kind=file", f"noise.file={tmp_path / 'short.npy'}"]) == 65
    (line,) = capsys.readouterr().err.splitlines()
    assert "short.npy" in line
    assert "7 labels" in line
    assert "1437" in line


def test_labels_of_another_run_are_used(arguments, run, tmp_path):
    folder, _ = run
    command = [*arguments, "stages=[classifier]", "noise.kind=file", f"noise.file={folder / 'labels.npz'}", "name=c"]
    assert main(command) == 0
    mine, theirs = np.load(tmp_path / "c" / "labels.npz"), np.load(folder / "labels.npz")
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs.files)


def test_a_teacher_of_other_images_is_not_reused(arguments, run, tmp_path):
    """A label file may name a part of the images; the teacher trained on it is another one."""
    folder, _ = run
    labels = ["noise.kind=file", f"noise.file={folder / 'labels.npz'}", "data.per_class=null"]
    assert main([*arguments, "stages=[simsiam]", "name=part", *labels]) == 0
    assert main([*arguments, "stages=[simsiam]", "name=all", "data.per_class=null"]) == 0
    part, whole = (load(tmp_path / name / "simsiam" / "artefact.pt")["key"] for name in ("part", "all"))
    assert part == load(folder / "simsiam" / "artefact.pt")["key"]  # the same images as the run that wrote the file
    assert part != whole


@pytest.fixture
def copy(data, tmp_path):
    shutil.copytree(data, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_truncated_beton_is_refused(arguments, copy, capsys):
    os.truncate(copy / "train.beton", 1000)
    assert main([*arguments, f"data.path={copy}"]) == 65
    assert "train.beton" in capsys.readouterr().err


def test_a_manifest_that_disagrees_is_refused(arguments, copy, capsys):
    shutil.copy(copy / "test.beton", copy / "train.beton")
    assert main([*arguments, f"data.path={copy}"]) == 65
    assert "train.beton" in capsys.readouterr().err


def test_a_checkpoint_of_other_classes_is_refused(run, copy, capsys):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["classes"].append("ten")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert evaluate.main([str(run[0]), "--data", str(copy)]) == 65
    assert "trained for 10 classes" in capsys.readouterr().err


def test_help_and_print_config(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert "relation.k=1.0" in capsys.readouterr().out
    assert main([*arguments, "--print-config"]) == 0
    assert "simsiam:" in capsys.readouterr().out
