from pathlib import Path

import numpy as np
import pytest
import torch
from support import forked, naive_suspects, small

from dist_rmd.distributed.processes import detect
from dist_rmd.pipeline.command import main
from dist_rmd.reports.suspects import suspects
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun
from dist_rmd.stages.relabel import Relabel

PARTS = ("indices", "given", "labels", "weights")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> list[str]:
    data = small.prepare(tmp_path_factory.mktemp("data"))
    return [*small.RECIPE, f"data.path={data}", "data.reader=memory", "data.per_class=30", "simsiam.epochs=3"]


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> FinishedRun:
    out = tmp_path_factory.mktemp("runs")
    assert main([*recipe, "stages=[simsiam,relabel,rgrl]", "task.relabel=true", f"out={out}", "name=a"]) == 0
    return FinishedRun(out / "a")


def refined(run: FinishedRun) -> dict:
    return artefacts.load(run.folder.artefact("relabel"))


def seen(run: FinishedRun, stage: str, part: int) -> np.ndarray:
    """What the network of a stage makes of the images, in the order of the labels: float64."""
    dataset = run.dataset()
    net = run.network(stage, dataset, torch.device("cpu"))
    loader = run.source(dataset, detect("cpu")).evaluation("train", run.labels)
    rows = {}
    with torch.no_grad():
        for batch in loader.epoch(0):
            out = net.encoder(batch.views[0]) if part else net(batch.views[0])[0].softmax(dim=1)
            rows |= dict(zip(batch.indices.tolist(), out.double().numpy(), strict=True))
    return np.array([rows[index] for index in run.labels.indices])


def test_labels_are_those_of_the_neighbours_written_naively(run):
    found, given = refined(run), run.labels.given
    assert found["indices"].tolist() == run.labels.indices.tolist()
    assert found["given"].tolist() == given.tolist()
    _, probable, *_ = naive_suspects.suspicion(seen(run, "simsiam", 1), given, 10)
    assert (found["labels"].numpy() == probable).mean() > 0.99  # single precision decides ties otherwise
    assert ((found["weights"] > 0) & (found["weights"] <= 1)).all()
    scores = run.scores("relabel")[-1]
    assert scores["relabel/changed"] == pytest.approx(100 * np.mean(found["labels"].numpy() != given))
    assert scores["relabel/right"] == pytest.approx(100 * np.mean(found["labels"].numpy() == run.labels.true))
    assert scores["relabel/right_given"] == pytest.approx(60)


def test_an_early_student_has_a_say(run, recipe, tmp_path):
    assert main([*recipe, "stages=[classifier]", f"out={tmp_path}", "name=early"]) == 0
    inputs = [f"inputs.simsiam={run.folder.path}", f"inputs.classifier={tmp_path / 'early'}"]
    settings = ["stages=[relabel]", "relabel.student=classifier", "relabel.student_weight=1"]
    assert main([*recipe, *inputs, *settings, f"out={tmp_path}", "name=b"]) == 0
    said = seen(FinishedRun(tmp_path / "early"), "classifier", 0)
    found = refined(FinishedRun(tmp_path / "b"))
    np.testing.assert_allclose(found["weights"], said.max(axis=1), atol=1e-5)
    assert (found["labels"].numpy() == said.argmax(axis=1)).mean() > 0.99


def test_probabilities_of_a_file_are_soft_labels_or_weights_of_the_given_ones(run, recipe, tmp_path, capsys):
    """Those that `report suspects` finds by the same features are those that the stage finds itself."""
    suspects([run.folder.path])
    file = run.folder.probabilities
    soft = [*recipe, "stages=[relabel,classifier]", "task.relabel=true", "relabel.soft=true", f"out={tmp_path}"]
    assert main([*soft, f"relabel.file={file}", "name=b"]) == 0
    found = refined(FinishedRun(tmp_path / "b"))
    np.testing.assert_allclose(found["probabilities"].sum(dim=1), 1, atol=1e-5)
    assert torch.equal(found["labels"], found["probabilities"].argmax(dim=1))
    assert torch.equal(found["labels"], refined(run)["labels"])
    assert "probabilities" not in refined(run)
    keep = ["relabel.soft=false", "relabel.keep=true", "stages=[relabel]", "task.relabel=false"]
    assert main([*soft, *keep, f"relabel.file={file}", "name=e"]) == 0
    kept, given = refined(FinishedRun(tmp_path / "e")), torch.from_numpy(run.labels.given)
    assert torch.equal(kept["labels"], given)
    assert torch.equal(kept["weights"], found["probabilities"].gather(1, given[:, None])[:, 0])
    assert main([*soft, "relabel.keep=true", "name=e"]) == 2
    assert "relabel.soft and relabel.keep: an image is learned in one way" in capsys.readouterr().err
    both = ["stages=[classifier,relabel]", "task.relabel=false", "relabel.student=classifier"]
    assert main([*soft, f"relabel.file={file}", *both, "name=c"]) == 2
    assert "relabel.student=classifier: the probabilities in relabel.file=" in capsys.readouterr().err
    assert main([*soft, f"relabel.file={file}", "noise.seed=5", "name=c"]) == 65
    assert "which are not the 300 labels of this run" in capsys.readouterr().err
    assert main([*soft, f"relabel.file={run.folder.cleaned}", "name=d"]) == 65
    assert "no probabilities.npz of report suspects" in capsys.readouterr().err


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_refines_alike_to_the_bit(run, recipe, ranks, tmp_path):
    arguments = [*recipe, "stages=[relabel]", f"inputs.simsiam={run.folder.path}"]
    done = forked.ranks(ranks, "dist_rmd.train", *arguments, f"out={tmp_path}", "name=b")
    assert done.returncode == 0, done.stdout
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([*arguments, f"out={tmp_path / 'alone'}", "name=c"]) == 0
    torch.set_num_threads(threads)
    ours, theirs = refined(FinishedRun(tmp_path / "b")), refined(FinishedRun(tmp_path / "alone" / "c"))
    for part in PARTS:
        assert torch.equal(ours[part], theirs[part]), part
    assert ours["key"] == theirs["key"]


def test_a_run_that_only_refines_says_what_it_found_and_names_no_division(run, recipe, tmp_path, capsys):
    arguments = [*recipe, "stages=[relabel]", f"inputs.simsiam={run.folder.path}", f"out={tmp_path}", "name=b"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "another class than the given one is more probable for " in said
    assert "report division" not in said


def test_it_needs_the_stages_that_it_asks(recipe, tmp_path, capsys):
    assert main([*recipe, "stages=[simsiam,relabel]", "relabel.student=elr", f"out={tmp_path}"]) == 2
    assert "stage relabel needs elr before it" in capsys.readouterr().err


def test_features_that_are_all_the_same_are_a_clear_end(run, recipe, tmp_path, capsys):
    artefact = artefacts.load(run.folder.artefact("simsiam"))
    artefact["encoder"] = {name: torch.zeros_like(value) for name, value in artefact["encoder"].items()}
    artefacts.save(tmp_path / "dull.pt", tmp_path / "shared.pt", artefact)
    arguments = [*recipe, "stages=[relabel]", f"inputs.simsiam={tmp_path / 'dull.pt'}", f"out={tmp_path}"]
    assert main(arguments) == 65
    assert "stage relabel: the features of all images are the same" in capsys.readouterr().err


def test_a_dry_run_refines_nothing(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Relabel, "compute", None)
    stages = "stages=[simsiam,relabel,rgrl]"
    assert main(["--dry-run", *recipe, f"out={tmp_path / 'out'}", stages, "task.relabel=true"]) == 0
    assert not Path(tmp_path / "out").exists()
