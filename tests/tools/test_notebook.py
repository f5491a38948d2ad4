import json
import re
import shutil

import pytest
from support import forked
from support.torchrun import ROOT


def play(notebook, timeout=170):
    return forked.command("tools.notebook", notebook, deadline=timeout)


def outputs(notebook):
    """Of each code cell, what its last line evaluates to, as text without numbers, and the kinds of all outputs."""
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            data = [output.get("data", {}) for output in cell["outputs"]]
            texts = ["".join(found.get("text/plain", [])) for found in data]
            yield [output["output_type"] for output in cell["outputs"]], [re.sub(r"\d+", "0", text) for text in texts]


def cell(source):
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": [source]}


def test_the_tour_runs_and_its_outputs_are_its_own(tmp_path):
    kept = ROOT / "docs" / "tour.ipynb"
    played = tmp_path / "tour.ipynb"
    shutil.copy(kept, played)
    done = play(played)
    assert done.returncode == 0, done.stderr
    assert list(outputs(played)) == list(outputs(kept)), "docs/tour.ipynb is stale: run tools/notebook"


def test_what_is_printed_and_the_last_value_are_kept_and_names_last_from_cell_to_cell(tmp_path):
    path = tmp_path / "small.ipynb"
    text = {"cell_type": "markdown", "metadata": {}, "source": ["# Title"]}
    picture = cell("from PIL import Image\nImage.new('L', (2, 2))")
    path.write_text(json.dumps({"cells": [text, cell("x = 2\nprint('two\\nlines')"), cell("x + 1"), picture]}))
    assert play(path).returncode == 0
    cells = json.loads(path.read_text())["cells"]
    assert cells[0] == text
    assert cells[1]["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["two\n", "lines\n"]}]
    assert (cells[2]["outputs"][0]["data"], cells[2]["execution_count"]) == ({"text/plain": ["3"]}, 2)
    assert cells[3]["outputs"][0]["data"]["image/png"].startswith("iVBOR")


@pytest.mark.parametrize("source", ["1 / 0", "raise SystemExit(3)"])
def test_a_cell_that_fails_ends_it_and_the_notebook_stays_as_it_was(tmp_path, source):
    path = tmp_path / "small.ipynb"
    before = json.dumps({"cells": [cell("1"), cell(source)]})
    path.write_text(before)
    assert play(path).returncode != 0
    assert path.read_text() == before
