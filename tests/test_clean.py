"""One command from a folder under wrong labels to a page of what came out, on a few digits."""

import csv
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from support.browser import browser
from support.whole_runs import fault, tree

from dist_rmd import clean
from dist_rmd.__main__ import COMMANDS
from dist_rmd.data.prepared.beton import open_dataset
from dist_rmd.pipeline import command
from dist_rmd.run import artefacts
from dist_rmd.run.finished import FinishedRun
from dist_rmd.run.folder import RunFolder

HOSTILE = "<img src=x onerror=alert(1)>.png"
SETTINGS = (
    "--side", "8", "--folds", "2", "simclr.epochs=2", "simclr.batch_size=16", "simclr.proj_hidden=16", "task.epochs=2",
    "task.batch_size=16", "device=cpu", "data.compile_views=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """<class>/* alone: 40 images each of three digits, every fifth under another label, and names as of an attack."""
    root = tmp_path_factory.mktemp("images") / "mine"
    digits = load_digits()
    for label in (0, 1, 7):
        for number, image in enumerate(digits.images[digits.target == label][:40]):
            given = label if number % 5 else {0: 1, 1: 7, 7: 0}[label]
            path = root / f"={given}" / (f"{label}-{number}.png" if number else HOSTILE)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype(np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def cleaned(folder, tmp_path_factory):
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("cleaned") / "out"
    assert clean.main([str(folder), "--out", str(out), *SETTINGS]) == 0
    return out


def test_the_whole_story(cleaned, folder, capsys):
    data = open_dataset(cleaned / "data")
    assert (data.held_out, data.sizes) == (True, {"train": 108, "test": 12})
    assert all(RunFolder(cleaned / name).finished("classifier") for name in ("given", "cleaned"))
    with open(cleaned / "given" / "suspects.csv", newline="") as file:
        assert len([*csv.DictReader(file)]) == 108
    page = (cleaned / "clean.html").read_text()
    assert "test/top1_unverified" in page
    assert "some of which are wrong as well" in page
    assert "onerror" not in page.replace("&lt;img", "")
    assert "<script" not in page
    assert 'href="given/suspects.html"' in page


def test_each_command_that_is_printed_can_be_typed_alone_and_has_nothing_left_to_do(cleaned, folder, capsys):
    before = {
        name: artefacts.load(RunFolder(cleaned / name).artefact("classifier"))["key"] for name in ("given", "cleaned")
    }
    assert clean.main([str(folder), "--out", str(cleaned), *SETTINGS]) == 0
    printed = capsys.readouterr().out
    typed = [shlex.split(line.split("] ", 1)[1]) for line in printed.splitlines() if line.startswith("[")]
    assert [words[:2] for words in typed] == [["dist-rmd", name] for name in ("train", "suspects", "train")]
    assert {words[1] for words in typed} < COMMANDS.keys()
    for words in (typed[0], typed[2]):
        assert command.main(words[2:]) == 0
        assert "finished before, nothing to do" in capsys.readouterr().out
    after = {
        name: artefacts.load(RunFolder(cleaned / name).artefact("classifier"))["key"] for name in ("given", "cleaned")
    }
    assert before == after


def test_stopped_in_a_step_the_same_command_goes_on(cleaned, folder, tmp_path, capsys):
    """Once in the first training, once in a network of the folds; the result is that of a run that was not stopped."""
    words = [str(folder), "--out", str(tmp_path / "out"), *SETTINGS]
    for stage, step in (("simclr", 4), ("classifier", 8)):
        with fault(f"kind=SIGTERM,rank=0,step={step},stage={stage}"):
            assert clean.main(words) == 75
        assert "the same command goes on from there" in capsys.readouterr().err
    assert clean.main(words) == 0
    for name in ("cleaned.csv", "suspects.csv"):
        assert (tmp_path / "out" / "given" / name).read_bytes() == (cleaned / "given" / name).read_bytes()


KILLED = """
import os, signal, sys
from dist_rmd import clean

def killed(written):  # the kernel ends the process before its next whole file is in its place
    left = iter(range(written))
    rename = os.replace
    def replace(*paths, **options):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*paths, **options)
    os.replace = replace
    os._exit(clean.main(sys.argv[1:]))

ends, written = [], 0
while not ends or ends[-1] == signal.SIGKILL:
    child = os.fork()
    if not child:
        killed(written)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) * -1)
    written = 2 * written + 1
print("ends", *ends)
"""


def test_killed_again_and_again_the_same_command_goes_on(cleaned, folder, tmp_path):
    """Killed before the 1st, 2nd, 4th, ... file is in its place, in all steps; the result is that of one start."""
    words = [str(folder), "--out", str(tmp_path / "out"), *SETTINGS]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True, check=False)
    ends = done.stdout.rpartition("ends ")[2].split()
    assert (done.returncode, ends[-1]) == (0, "0"), done.stderr
    assert len(ends) > 4
    for name in ("cleaned.csv", "suspects.csv"):
        assert (tmp_path / "out" / "given" / name).read_bytes() == (cleaned / "given" / name).read_bytes()
    first, second = (
        artefacts.load(RunFolder(out / "cleaned").artefact("classifier")) for out in (tmp_path / "out", cleaned)
    )
    assert first["key"] == second["key"]


def test_the_page_of_results_leads_to_the_page_of_suspects(cleaned, tmp_path):
    with browser(tmp_path) as chromium:
        chromium.open(cleaned / "clean.html")
        assert chromium.value("document.querySelector('h1').textContent") == "out"
        assert chromium.value("[...document.images].map(i => i.naturalWidth > 100)") == [True]
        chromium.click("a")
        chromium.until("location.pathname.endsWith('/given/suspects.html')")
        chromium.until("document.querySelectorAll('.card').length > 0")
        assert chromium.messages == []


def test_what_was_decided_on_the_page_is_trained_on_beside_the_rest(cleaned, folder, tmp_path, capsys):
    data = open_dataset(cleaned / "data")
    rows = [*data.files("train")[2:], *data.files("test")]
    labels = tmp_path / "labels.csv"
    with open(labels, "w", newline="") as file:
        csv.writer(file).writerows(
            [["file", "label"], *([f"'{name}", f"'={1 if i else 7}"] for i, name in enumerate(rows))]
        )
    kept = tree(cleaned / "cleaned")
    assert clean.main([str(folder), "--out", str(cleaned), *SETTINGS, "--labels", str(labels)]) == 0
    assert "with the decided labels" in capsys.readouterr().out
    assert "2 images left out" in (cleaned / "clean.html").read_text()
    assert tree(cleaned / "cleaned") == kept


@pytest.mark.parametrize("start", [True, False])
def test_features_that_are_there_already_are_not_trained_again(cleaned, folder, tmp_path, start):
    """The classifiers start from them, or, as they must where these are of another kind of network, at random."""
    brought = artefacts.load(RunFolder(cleaned / "given").artefact("simclr"))
    words = [*SETTINGS, f"inputs.simclr={cleaned / 'given'}", *([] if start else ["task.init_from=null"])]
    assert clean.main([str(folder), "--out", str(tmp_path / "out"), *words, "--folds", "0"]) == 0
    given, after = (FinishedRun(tmp_path / "out" / name) for name in ("given", "cleaned"))
    assert given.stages == after.stages == ["relabel", "classifier"]
    assert artefacts.load(given.artefact("simclr"))["key"] == brought["key"]
    assert given.config.sections["task"].relabel is False
    assert after.config.sections["task"].relabel is True
    assert (after.config.sections["task"].init_from, [*after.config.inputs]) == (
        ("simclr", ["simclr"]) if start else (None, [])
    )


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["nowhere"], 65, "nowhere: no such folder"),
        ([".", "name=mine"], 2, "name=mine: clean sets name itself"),
        ([".", "noise.rate=0.4"], 2, "noise.rate=0.4: clean sets noise.rate itself"),
        ([".", "task.epoch=3"], 2, "unknown key 'task.epoch'"),
        ([".", "elr/cifar10"], 2, "clean needs features without labels"),
        ([".", "inputs.simclr=nowhere"], 65, "inputs.simclr=nowhere: no such file or folder"),
        ([".", "--labels", "nothing.csv"], 65, "nothing.csv: no such file"),
        ([".", "--folds", "9"], 2, "--folds 9: choose 2 to 5, or 0"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(tmp_path, words, code, reason, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert clean.main(words) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert reason in err
    assert os.listdir(tmp_path) == []
