import json

import pytest
from support import small

from dist_rmd.sweep import grid
from dist_rmd.sweep.tasks import Planner

GRID = """
config: base.yaml
set: {teacher.seed: 0, division.seed: 0, noise.rate: 0.3}
axes:
  method:
    CE: {stages: [classifier]}
    VKD: {stages: [teacher, vkd]}
    MODUL: {stages: [teacher, division, modul]}
"""


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    return small.prepare(tmp_path_factory.mktemp("digits"))


@pytest.fixture
def tasks(digits, tmp_path):
    """The tasks of a sweep in tmp_path/small, by name, and what they need: a teacher, and from it a division."""
    (tmp_path / "base.yaml").write_text("name: base\n")
    (tmp_path / "small.yaml").write_text(GRID)
    planner = Planner("small", (*small.RECIPE, f"data.path={digits}", f"out={tmp_path}"), ranks=1)
    cells = grid.load(tmp_path / "small.yaml", seeds=[0, 1]).cells
    return {cell.name: planner.task(cell, cell.name) for cell in cells}


@pytest.fixture
def ended():
    """A function that leaves what a run leaves when it ends."""

    def ended(task, code, reason=""):
        task.folder.path.mkdir(parents=True, exist_ok=True)
        content = {"status": "", "code": code, "reason": reason, "keys": dict(task.keys)}
        task.folder.exit.write_text(json.dumps(content))
        for stage, key in task.keys.items():
            small.artefact(task.folder.artefact(stage), key)

    return ended


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A function that puts a program `squeue` with this output and exit code before all others."""

    def squeue(output, code=0):
        program = tmp_path / "bin" / "squeue"
        program.parent.mkdir(exist_ok=True)
        stream = ">&2" if code else ""
        program.write_text(f"#!/bin/sh\ncat <<'END' {stream}\n{output}\nEND\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    return squeue
