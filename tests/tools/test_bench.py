"""tools/bench without its venv: what is not installed is said, what fails is named, and the rest is kept."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.torchrun import ROOT, child_environment

from tools.bench_parts import peers
from tools.bench_parts.__main__ import SECTIONS, main
from tools.bench_parts.tables import Table


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tools.bench_parts", *map(str, arguments)],
        cwd=ROOT,
        env=child_environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )


def tables(out: Path, section: str) -> list[Table]:
    return [Table.load(tree) for tree in json.loads((out / "bench.json").read_text())["sections"][section]["tables"]]


def test_a_section_that_fails_is_named_and_the_others_are_kept(tmp_path):
    done = bench("profile", "checkpoint", "--quick", "--device", "cpu", "--with", "no.such=1", "--out", tmp_path)
    assert done.returncode == 1, done.stderr
    page = (tmp_path / "bench.md").read_text()
    assert "failed: ConfigError" in page
    assert "no.such" in page
    assert tables(tmp_path, "profile") == []
    (table,) = tables(tmp_path, "checkpoint")
    assert [len(row.seconds) for row in table.rows] == [1, 1, 1, 1]
    assert "Checkpoint of resnet10" in done.stdout
    assert "Checkpoint of resnet10" in page

    again = bench("--compare", tmp_path / "bench.json", tmp_path / "bench.json")
    assert again.returncode == 0, again.stderr
    assert "checkpoint: Checkpoint of resnet10, width 16: of it within save()" in again.stdout


def test_a_row_that_fails_costs_no_other(tmp_path):
    done = bench("step", "--quick", "--device", "cpu", "--batches", "32", "--with", "no.such=1", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row.name: row for row in tables(tmp_path, "step")[0].rows}
    assert "no.such" in rows.pop("ours, tricks on, no.such=1").absent
    assert rows.pop("lightly", None) is None or "torch alone, tricks off" in rows  # what stands in for it
    assert all(len(row.seconds) == 1 and row.images == 32 for row in rows.values())
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--compare", "no.json", "no.json"], 2, "no.json"),
        (["--data", "nowhere"], 65, "nowhere"),
        (["--batches", "64,many"], 2, "--batches 64,many"),
        (["--sizes", "1"], 2, "--sizes 1"),
        (["--beside", "-1"], 2, "--beside -1"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, arguments, code, said):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_an_unknown_section_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["stepp"])
    assert "no section stepp: choose from machine, input, relation" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_sections_in_small(tmp_path):
    done = bench("--quick", "--device", "cpu", "--beside", "1", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    for section in SECTIONS:
        assert tables(tmp_path, section), section
    (views,) = tables(tmp_path, "input")
    rows = {row.name: row for row in views.rows}
    assert len(rows) == 14
    assert rows["ours, from memory, beside 1 busy"].facts["of its speed alone"]
    assert all(bool(row.seconds) != bool(row.absent) for row in views.rows)
    assert all("not installed: " in row.absent for row in views.rows if row.absent)
    assert all(rows[name].seconds for name in ("torchvision v1 (PIL), DataLoader", "ours, FFCV", "ours, from memory"))
    assert [row.name for row in tables(tmp_path, "pack")[0].rows] == ["1 run", "2 runs at once"]
    shares, *_ = tables(tmp_path, "profile")
    assert {"convolutions", "batch normalisation"} <= {row.name for row in shares.rows}
    ranks, split = tables(tmp_path, "scaling")
    assert [row.name for row in split.rows][:2] == ["1 rank", "2 ranks, same global batch"]
    assert [row.images for row in ranks.rows][:3] == [64, 64, 128]


PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m venv --without-pip .bench-venv") mkdir -p .bench-venv/bin .bench-venv/site && cp "$0" .bench-venv/bin/python ;;
    "-c import sysconfig"*) echo "${0%/bin/python}/site" ;;
    *"install"*"lightly"*) echo "ERROR: No matching distribution found for lightly"; exit 1 ;;
    *"install"*) echo "$*" >>installed ;;
    "-m tools.bench_parts"*) echo "$* $PYTHONPATH" ;;
esac
"""


def test_a_peer_that_cannot_be_had_is_named_and_costs_no_other(tmp_path):
    for name, text in {"tools/setup": "#!/bin/sh\n", ".venv/bin/python": PYTHON}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    shutil.copy(ROOT / "tools/bench", tmp_path / "tools/bench")
    (tmp_path / ".venv/setup.done").touch()
    for attempt in (1, 2):  # what is missing is tried again
        done = subprocess.run(
            [tmp_path / "tools/bench", "input"], env=os.environ | {"PYTHONPATH": "/own"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"-m tools.bench_parts input {tmp_path}:/own\n"
        assert "bench: without lightly: ERROR: No matching distribution found for lightly\n" in done.stderr
        assert (tmp_path / "installed").read_text().count("kornia") == 2 * attempt  # kornia and kornia-rs


def test_a_library_that_lacks_what_it_imports_counts_as_missing(tmp_path, monkeypatch):
    (tmp_path / "kornia").mkdir()
    (tmp_path / "kornia" / "__init__.py").touch()
    (tmp_path / "kornia" / "augmentation.py").write_text("import kornia_rs_of_another_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert peers.missing("kornia") == "not installed: No module named 'kornia_rs_of_another_name'"
