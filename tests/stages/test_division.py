import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from support import forked, small

from dist_rmd.config import sections
from dist_rmd.distill.division import divide, subjective_logic_loss
from dist_rmd.distributed.processes import detect
from dist_rmd.errors import ConfigError
from dist_rmd.pipeline.command import main
from dist_rmd.reports.summary import summary
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun
from dist_rmd.stages.division import Division, DivisionConfig
from dist_rmd.stages.teacher import TeacherConfig

NOISE = ("noise.rate=0", "noise.kind=openset", "noise.rho1=0.5", "noise.rho2=0.5", "division.evidence=exp")
PARTS = ("indices", "given", "predicted", "sets", "labels", "losses", "scaled", "probability")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> list[str]:
    """A teacher of the first 80 digits of each class, which are 8 x 8 pixels, and 400 others to divide."""
    folder = tmp_path_factory.mktemp("division")
    data = small.prepare(folder, open_images=300)
    return [
        *small.RECIPE, *NOISE, f"data.path={data}", "data.reader=memory", "data.per_class=40", "data.skip=80",
        "teacher.per_class=80", "augment.flip=false", "teacher.epochs=8", "teacher.lr=0.1", "teacher.eval_every=8",
        "stages=[teacher,division]",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory) -> FinishedRun:
    out = tmp_path_factory.mktemp("out")
    assert main([*recipe, f"out={out}", "name=a"]) == 0
    return FinishedRun(out / "a")


def divided(run: FinishedRun) -> dict:
    return artefacts.load(run.folder.artefact("division"))


def test_it_is_the_division_of_the_teachers_losses(run):
    found, labels, dataset = divided(run), run.labels, run.dataset()
    assert found["indices"].tolist() == labels.indices.tolist()
    assert found["given"].tolist() == labels.given.tolist()
    assert len(labels) == 400
    net = run.network("teacher", dataset, torch.device("cpu"))
    images = torch.empty(len(dataset.labels("train")), 3, 8, 8)
    for batch in run.source(dataset, detect("cpu")).evaluation("train", labels).epoch(0):
        images[batch.indices] = batch.views[0]
    with torch.no_grad():
        logits = net(images[found["indices"]])[0]
    losses = subjective_logic_loss(logits, found["given"], "exp")
    torch.testing.assert_close(found["losses"], losses, rtol=1e-4, atol=1e-4)
    assert found["predicted"].tolist() == logits.argmax(1).tolist()
    expected = divide(found["losses"], seed=0)
    assert found["sets"].tolist() == expected.set.tolist()
    assert torch.equal(found["probability"], torch.from_numpy(expected.probability))
    closed = found["sets"] == 1
    assert torch.equal(found["labels"], torch.where(closed, found["predicted"], found["given"]))
    assert found["counts"] == expected.counts
    assert found["mixture"]["set"].tolist() == expected.mixture.set.tolist()


def test_images_that_the_teacher_has_not_seen_are_told_apart(run):
    metrics = run.scores("division")[-1]
    assert metrics["division/recall_clean"] > 70
    assert metrics["division/recall_closed"] > 70
    seen = sections.parse(run.folder.config).section(TeacherConfig).per_class
    first = [np.flatnonzero(run.dataset().labels("train") == label)[:seen] for label in range(10)]
    assert not set(np.concatenate(first)) & set(run.labels.indices)


def test_it_is_measured_and_told(run, capsys):
    records = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    (record,) = [record for record in records if record["stage"] == "division"]
    counts = divided(run)["counts"]
    assert [record[f"division/{name}"] for name in ("clean", "closed", "open")] == list(counts.values())
    assert sum(counts.values()) == 400
    assert {f"division/precision_{name}" for name in ("clean", "closed")} <= record.keys()


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_divides_alike_to_the_bit(run, recipe, ranks, tmp_path):
    """With the teacher of another run: on 3 ranks the parts of a batch are not those of one process."""
    arguments = [*recipe, "stages=[division]", f"inputs.teacher={run.folder}", f"out={tmp_path}", "name=b"]
    done = forked.ranks(ranks, "dist_rmd.train", *arguments)
    assert done.returncode == 0, done.stdout
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([*arguments, "name=c", f"out={tmp_path / 'alone'}"]) == 0
    torch.set_num_threads(threads)
    ours, theirs = divided(FinishedRun(tmp_path / "b")), divided(FinishedRun(tmp_path / "alone" / "c"))
    for part in PARTS:
        assert torch.equal(ours[part], theirs[part]), part
    assert ours["key"] == theirs["key"]


def test_what_is_the_same_is_not_divided_twice(run, recipe, capsys):
    out = run.path.parent
    assert main([*recipe, f"out={out}", "name=again"]) == 0
    assert "division: finished before, reusing" in capsys.readouterr().out
    assert main([*recipe, f"out={out}", "name=other", "division.clean=0.2"]) == 0
    said = capsys.readouterr().out
    assert "teacher: finished before" in said
    assert "division: finished before" not in said


def test_asked_to_stop_it_begins_anew(run, recipe, tmp_path, monkeypatch):
    arguments = [*recipe, "stages=[division]", f"inputs.teacher={run.folder}", f"out={tmp_path}", "name=a"]
    compute = Division.compute

    def disturbed(self, source, labels, proceed):
        signal.raise_signal(signal.SIGUSR1)
        return compute(self, source, labels, proceed)

    monkeypatch.setattr(Division, "compute", disturbed)
    assert main(arguments) == 75
    assert json.loads((tmp_path / "a" / "exit.json").read_text())["reason"].startswith("division: stopped by SIGUSR1")
    assert not (tmp_path / "a" / "division" / "artefact.pt").exists()
    monkeypatch.undo()
    assert main(arguments) == 0
    assert torch.equal(divided(FinishedRun(tmp_path / "a"))["sets"], divided(run)["sets"])


def test_a_teacher_that_tells_nothing_apart_is_a_clear_end(run, recipe, tmp_path, capsys):
    """All logits 0: all losses are equal."""
    artefact = artefacts.load(run.folder.artefact("teacher"))
    artefact["head"] = {name: torch.zeros_like(value) for name, value in artefact["head"].items()}
    artefacts.save(tmp_path / "dull.pt", tmp_path / "shared.pt", artefact)
    arguments = [*recipe, "stages=[division]", f"inputs.teacher={tmp_path / 'dull.pt'}", f"out={tmp_path}"]
    assert main(arguments) == 65
    assert "the teacher tells none of them from another" in capsys.readouterr().err


def test_thresholds_in_the_wrong_order_are_a_configuration_mistake():
    with pytest.raises(ConfigError, match=r"division\.clean=0\.9 must be below division\.closed=0\.3"):
        sections.parse(None, ["division.clean=0.9", "division.closed=0.3"])


def test_defaults_are_the_papers():
    c = sections.parse(None, []).section(DivisionConfig)
    assert (c.clean, c.closed, c.components, c.evidence, c.scaling) == (0.3, 0.9, 20, "relu", "minmax")


def test_a_dry_run_divides_nothing(recipe, tmp_path, capsys):
    assert main(["--dry-run", *recipe, f"out={tmp_path / 'out'}", "stages=[teacher,division,modul]"]) == 0
    output = capsys.readouterr().out
    assert "division" in output
    assert not Path(tmp_path / "out").exists()


def test_summary_has_no_row_for_it(run):
    page = summary([run.path])
    assert "| teacher |" in page
    assert "division" not in page
