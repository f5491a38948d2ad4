import os
import subprocess
import sys

import pytest
from torchrun import ROOT


@pytest.mark.slow
def test_small_sizes_give_all_tables_and_large_ones_are_left_out_by_name(tmp_path):
    page = tmp_path / "page.md"
    options = ["--sizes", "32,100000", "--width", "8", "--rounds", "1", "--device", "cpu", "--markdown", str(page)]
    tool = [sys.executable, str(ROOT / "tools/bench_relation.py"), *options]
    done = subprocess.run(tool, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text in done.stdout
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows].count("B") == 3
    one, two = ([row for row in rows if row[0] == size] for size in ("32", "100000"))
    assert one[0][-1] == two[0][-1] == "gram"
    assert two[0][1:3] == ["does not fit", "does not fit"]
    # Two ranks, ring: gather sends its 16 x 16 float32 features and one pair of sums, gram 3 x 8 x 8 float64.
    assert [float(cell) for cell in one[1][4:6]] == pytest.approx([(1024 + 8) / 2**20, 1536 / 2**20], rel=1e-2)
    assert two[1][1] == "does not fit"
    accuracy = {row[0]: row[-2:] for row in rows}
    gram, float32_gram = (float(cell.split("/")[1]) for cell in accuracy["0.0001"])
    assert gram < 0.01 < float32_gram
    small, large = (dict(zip(rows[-9], map(float, row), strict=True)) for row in (rows[-7], rows[-1]))
    assert [large[key] / small[key] for key in ("B", "edge fro", "edge rms")] == pytest.approx([64, 64, 1], rel=0.25)
