import json
import os
import subprocess
import sys

from support.torchrun import ROOT, child_environment

from tools.replicate_parts import outcomes
from tools.replicate_parts.record import Entry, Record
from tools.replicate_parts.steps import checks

TESTS = """
import pytest

@pytest.mark.parametrize("n", [1, 2, 3])
def test_numbers(n):
    assert n != 2, "two"

@pytest.mark.skip(reason="no")
def test_skipped():
    pass

def test_ends_all():
    import os
    os._exit(9)

def test_never_reached():
    pass
"""


def test_every_outcome_is_told_at_once_and_counted_by_test(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("import no_such_module\n")
    told = tmp_path / "told.jsonl"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        outcomes.__name__,
        "--continue-on-collection-errors",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", str(tmp_path)],
        cwd=ROOT, env=child_environment(**{outcomes.WHERE: str(told)}), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 9, done.stdout
    lines = told.read_text().splitlines()
    outcomes_told = {json.loads(line)["outcome"] for line in lines}
    assert outcomes_told == {"collected", "passed", "failed", "skipped", "left out"}

    record = Record(tmp_path / "out", "cpu", "few", {}, "a CPU", {"checks": Entry("checks", "Checks")})
    work = type(
        "Work", (), {"entry": record.entries["checks"], "show": lambda self, *tables: self.entry.show(tables)}
    )()
    checks.show(work, lines)
    counts, wrong, left_out = work.entry.shown
    assert {row.name: [*row.facts.values()] for row in counts.rows} == {
        "test_it.py::test_numbers": ["2", "1", "0", "0"],
        "test_it.py::test_skipped": ["0", "0", "1", "0"],
        "test_it.py::test_ends_all": ["0", "0", "0", "1"],
        "test_it.py::test_never_reached": ["0", "0", "0", "1"],
    }
    why = "AssertionError: two assert 2 != 2"
    assert {row.name: row.facts["why"] for row in wrong.rows} == {"test_it.py::test_numbers[2]": why}
    (absent,) = left_out.rows
    assert absent.name == "test_broken.py"
    assert "no_such_module" in absent.facts["why"]
    assert work.entry.parts == ["test_it.py::test_numbers[1]", "test_it.py::test_numbers[3]"]
    assert work.entry.figure == "2 passed, 1 failed, 1 skipped, 1 left out, 2 not reached"
