"""tools/replicate: real runs on the digits, killed and gone on with; each mistake is one line."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from support.torchrun import ROOT, child_environment, wait_for

from dist_rmd.run.folder import RunFolder
from dist_rmd.run.lock import run_lock
from tools.replicate_parts.__main__ import main
from tools.replicate_parts.steps import STEPS


@pytest.fixture
def places(tmp_path):
    """--out and --work."""
    return ["--device", "cpu", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]


def started(*words):
    command = [sys.executable, "-m", "tools.replicate_parts", *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=child_environment(OMP_NUM_THREADS="1"), stderr=subprocess.PIPE, text=True
    )


def steps(tmp_path):
    return {step["name"]: step for step in json.loads((tmp_path / "out" / "replicate.json").read_text())["steps"]}


def shown(step, title):
    return [row for table in step["tables"] if table["title"].startswith(title) for row in table["rows"]]


def test_a_call_leaves_two_small_files_and_the_next_one_goes_on(places, tmp_path, capsys):
    assert main(["--minutes", "2", *places, "images", "machine"]) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["replicate.json", "replicate.md", "run.lock"]
    assert sum(file.stat().st_size for file in files) < 2**20
    first = steps(tmp_path)
    assert [first[name]["status"] for name in ("images", "machine", "checks")] == ["done", "done", "to do"]
    limits = {row["name"]: row["facts"] for row in shown(first["machine"], "Its limits")}
    assert float(limits["matrix product 1024 x 1024, float32"]["TFLOP/s"]) > 0
    text = "".join(file.read_text() for file in files[:2])
    assert str(ROOT) not in text
    assert str(tmp_path) not in text

    capsys.readouterr()
    assert main(["--minutes", "0.1", *places, "images", "machine", "simsiam"]) == 0
    said = capsys.readouterr().err
    assert "replicate: simsiam: needs about 60 s, " in said
    assert "machine: at most" not in said
    second = steps(tmp_path)
    assert (second["images"], second["machine"]) == (first["images"], first["machine"])
    assert second["simsiam"]["status"] == "skipped"
    assert len(json.loads((tmp_path / "out" / "replicate.json").read_text())["calls"]) == 2


def test_a_step_that_fails_is_recorded_and_the_next_one_runs(places, tmp_path):
    (tmp_path / "work" / "images").parent.mkdir()
    (tmp_path / "work" / "images").touch()  # where betons are to go
    assert main(["--minutes", "2", *places, "images", "machine"]) == 1
    found = steps(tmp_path)
    assert found["images"]["status"] == "failed"
    assert "exit code 73" in found["images"]["error"]
    assert "cannot be created" in found["images"]["why"]
    assert found["machine"]["status"] == "done"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--minutes", "0"], 2, "--minutes 0: a number above 0 is needed"),
        (["--minutes", "nan"], 2, "--minutes nan: a number above 0 is needed"),
        (["--minutes", "soon"], 2, "argument --minutes: invalid float value: 'soon'"),
        (["--device", "tpu"], 2, "--device tpu: choose cuda or cpu"),
        (["--data", "nowhere"], 65, "nowhere: no such folder"),
        (["--data", "configs/rmdnet"], 65, "configs/rmdnet: 0 class folders, but at least 2 are needed"),
        (["profit"], 2, "no step profit: choose from images, machine"),
        pytest.param(
            ["--device", "cuda"], 2, "--device cuda, but torch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU"),
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(places, tmp_path, capsys, words, code, said):
    assert main(["--minutes", "1", *places, *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_in_use_or_of_other_images_is_refused(places, tmp_path, capsys):
    with run_lock(RunFolder(tmp_path / "out")):
        assert main(["--minutes", "1", *places]) == 73
    assert "out: another run is writing here" in capsys.readouterr().err
    assert main(["--minutes", "1", *places, "images"]) == 0
    shutil.copytree(tmp_path / "work" / "images", tmp_path / "other")
    manifest = tmp_path / "other" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dataset": "digits"', '"dataset": "figures"'))
    capsys.readouterr()
    assert main(["--minutes", "1", *places, "--data", str(tmp_path / "other")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds results of other images (digits, 1,437 for training" in line


def test_ctrl_c_ends_it_and_says_so(places, tmp_path):
    tool = started("--minutes", "5", *places, "images", "machine")
    wait_for(
        lambda: (tmp_path / "out" / "replicate.json").exists() and steps(tmp_path)["machine"]["status"] == "running", 60
    )
    tool.send_signal(signal.SIGINT)
    _, said = tool.communicate(timeout=30)
    assert tool.returncode == 75, said
    assert steps(tmp_path)["machine"]["status"] == "stopped"
    assert steps(tmp_path)["images"]["status"] == "done"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_the_middle_of_a_training_it_keeps_the_curve_and_goes_on(places, tmp_path):
    words = ["--minutes", "4", *places, "images", "simsiam"]
    tool = started(*words)
    try:
        rows = wait_for(lambda: (tmp_path / "out" / "replicate.json").exists() and [
            row for row in shown(steps(tmp_path)["simsiam"], "Test images") if "last" in row["facts"]
        ], 300)  # fmt: skip
    finally:
        tool.kill()
        tool.communicate()
    kept = steps(tmp_path)["simsiam"]
    assert kept["status"] in ("running", "done")
    assert "last" in shown(kept, "Test images")[0]["facts"]
    wait_for(lambda: not children_of(tmp_path / "work"), 60)  # the training saves, and ends with the tool
    again = started(*words)
    _, said = again.communicate(timeout=400)
    assert again.returncode == 0, said
    done = steps(tmp_path)["simsiam"]
    assert done["status"] in ("done", "cut short"), done
    planned = shown(done, "Test images")[0]["facts"]["epochs"].split(" of ")[1]
    assert planned == rows[0]["facts"]["epochs"].split(" of ")[1]
    assert "going on from epoch" in (tmp_path / "work" / "logs" / "simsiam.log").read_text()


def children_of(folder):
    """Processes whose command line names the folder."""
    return [
        pid for pid in os.listdir("/proc")
        if pid.isdecimal() and str(folder) in _command_line(pid)
    ]  # fmt: skip


def _command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_steps_on_digits(places, tmp_path):
    tool = started("--minutes", "15", *places)
    _, said = tool.communicate(timeout=1500)
    assert tool.returncode == 0, said
    found = steps(tmp_path)
    assert list(found) == [step.name for step in STEPS]
    assert {step["status"] for step in found.values()} <= {"done", "cut short", "skipped"}, said
    assert found["checks"]["figure"].split(",")[0].endswith(" passed")
    assert {row["name"] for row in shown(found["relations"], "Test images, top1")} == {"CE", "CE+RMDNet, K = 1"}
    assert {"teacher", "KD (T = 4)"} <= {row["name"] for row in shown(found["modul"], "Test images, top1")}


PYTHON = """#!/usr/bin/env bash
if [[ $1 == - ]]; then cat >/dev/null; echo "$LACKS"; else echo "${0##*/} $* $PYTHONPATH"; fi
"""


@pytest.mark.parametrize(
    ("lacks", "venv", "expected"),
    [
        ("", False, "python3 -m tools.replicate_parts --help {0}:/own\n"),
        ("yaml", False, "set up\npython -m tools.replicate_parts --help {0}:/own\n"),
        ("", True, "set up\npython -m tools.replicate_parts --help {0}:/own\n"),
    ],
)
def test_it_sets_up_first_unless_the_machines_own_python_has_all(tmp_path, lacks, venv, expected):
    project, path = tmp_path / "project", tmp_path / "bin"
    for folder in (project / "tools", project / ".venv/bin" if venv else path, path):
        folder.mkdir(parents=True, exist_ok=True)
    setup = f"#!/bin/sh\necho set up\nmkdir -p .venv/bin\ncp {path / 'python3'} .venv/bin/python\n"
    for place, text in ((path / "python3", PYTHON), (project / "tools/setup", setup)):
        place.write_text(text)
        place.chmod(0o755)
    shutil.copy(ROOT / "tools/replicate", project / "tools/replicate")
    env = {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}", "LACKS": lacks, "PYTHONPATH": "/own"}
    done = subprocess.run(
        [project / "tools/replicate", "--help"], env=os.environ | env, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "".join(
        line for line in done.stdout.splitlines(True) if not line.startswith("replicate:")
    ) == expected.format(project)
    assert ("python3 lacks yaml" in done.stdout) == bool(lacks)
