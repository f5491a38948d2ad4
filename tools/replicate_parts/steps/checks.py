"""b. The same bits, or the same up to rounding: views, the teacher's stream, CUDA graphs, statistics, relation loss."""

import importlib.util
import json
import os
from collections import Counter

from tools.bench_parts.tables import Row, Table
from tools.replicate_parts import outcomes
from tools.replicate_parts.command import ROOT
from tools.replicate_parts.step import Step, Work

FILES = (
    "tests/data/augment/test_pixels_numba.py",
    "tests/data/augment/test_views_triton.py",
    "tests/data/loading/test_loader.py",
    "tests/distill/test_overlapped.py",
    "tests/distill/test_relation.py",
    "tests/distributed/test_sync_batchnorm.py",
    "tests/stages/test_base.py",
    "tests/engine/test_compilation.py",
)
"""the quick ones first: each configuration of the last is compiled"""
CHOSEN = {
    "cuda": ("-m", "gpu"),
    "cpu": ("-m", "not slow and not gpu", "-k", "pixels_numba or interpreted or overlapped or device or never_asks"),
}


def run(work: Work) -> None:
    if importlib.util.find_spec("pytest") is None:
        work.note("pytest is not installed: nothing was checked.")
        return
    told = work.folder / "outcomes.jsonl"
    told.unlink(missing_ok=True)
    os.environ[outcomes.WHERE] = str(told)
    before = [part for part in work.entry.parts if "::" in part]  # which an earlier call has seen pass
    known = [option for test in before for option in ("--deselect", test)]

    def look() -> bool:
        if told.exists():
            show(work, told.read_text().splitlines())
        return False

    here = [file for file in FILES if (ROOT / file).exists()]
    # Not setup.cfg's options: pytest-timeout and hypothesis, which they and some files need, may not be there.
    options = ["-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    work.entry.commands.clear()  # the list of what is known grows with every call
    work.python(
        "-m", "pytest", "-q", *options, "-p", outcomes.__name__, *CHOSEN[work.device], *here, *known,
        look=look, codes=(0, 1, 5),
    )  # fmt: skip


def show(work: Work, lines: list[str]) -> None:
    """A row for each test function, and those that failed."""
    last: dict[str, tuple[str, str]] = {part: ("passed", "") for part in work.entry.parts if "::" in part}
    for line in lines:
        told = json.loads(line)
        last[told["test"]] = (told["outcome"], told["reason"])
    work.entry.parts[:] = [test for test, (outcome, _) in last.items() if outcome == "passed"]
    counts: dict[str, Counter[str]] = {}
    for test, (outcome, _) in last.items():
        counts.setdefault(test.partition("[")[0], Counter())[outcome] += 1
    rows = [
        Row(name.removeprefix("tests/"), facts={
            "passed": str(of["passed"]), "failed": str(of["failed"]), "skipped": str(of["skipped"]),
            "not reached": str(of["collected"]),
        })
        for name, of in counts.items() if not of["left out"]
    ]  # fmt: skip
    tables = [Table("Tests on this device", "Each a claim of equality; tests' names say which.", rows)]
    for outcome, title in (("failed", "Those that failed"), ("left out", "Left out: a library is not there")):
        why = [Row(test, facts={"why": said.replace("|", "/")}) for test, (how, said) in last.items() if how == outcome]
        work.entry.tables = [table for table in work.entry.tables if table["title"] != title]
        tables += [Table(title, "", why)] if why else []
    total: Counter[str] = sum(counts.values(), Counter())
    said = [f"{total[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped", "left out") if total[outcome]]
    work.entry.figure = ", ".join(said + ([f"{total['collected']} not reached"] if total["collected"] else []))
    work.show(*tables)


STEP = Step("checks", "Bits and roundings", run, least={"cuda": 30, "cpu": 20}, most={"cuda": 240, "cpu": 60})
