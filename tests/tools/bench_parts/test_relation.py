from pathlib import Path

import pytest

from tools.bench_parts import relation
from tools.bench_parts.settings import Settings

LARGE = 1_000_000


def settings(tmp_path: Path) -> Settings:
    return Settings("cpu", 2, True, 1, tmp_path, tmp_path, (32, LARGE), ())


def test_small_sizes_are_measured_and_what_does_not_fit_is_named(tmp_path):
    table = relation.one_process((32, LARGE), 8, settings(tmp_path))
    rows = {row.name: row for row in table.rows}
    assert [name for name, row in rows.items() if row.absent] == [f"B={LARGE}, naive", f"B={LARGE}, gather"]
    assert [name for name, row in rows.items() if row.facts["auto"]] == ["B=32, gram", f"B={LARGE}, gram"]
    assert all(len(row.seconds) == 1 and int(row.facts["peak MiB"]) >= 0 for row in rows.values() if not row.absent)
    (ratio,) = table.ratios(rows["B=32, gather"])
    assert ratio == pytest.approx(rows["B=32, naive"].seconds[0] / rows["B=32, gather"].seconds[0])


def test_bytes_between_two_ranks(tmp_path):
    table = relation.several_ranks((32, LARGE), 8, settings(tmp_path), 2, "two")
    rows = {row.name: row for row in table.rows}
    assert rows[f"B={LARGE}, gather"].absent == "does not fit"
    # A ring of two: gather sends its 16 x 16 float32 features and one pair of sums, gram 3 x 8 x 8 float64.
    sent = [float(rows[f"B=32, {form}"].facts["MiB sent"]) for form in ("gather", "gram")]
    assert sent == pytest.approx([(1024 + 8) / 2**20, 1536 / 2**20], rel=1e-2)


def test_float32_products_are_not_accurate_enough_for_gram():
    rows = {row.name: row.facts for row in relation.accuracy(8).rows}
    near = rows["teacher + 0.0001 noise"]
    gram, float32_gram = (float(near[form].split("/")[1]) for form in ("gram", "gram, float32 products"))
    assert gram < 0.01 < float32_gram


def test_frobenius_grows_with_the_batch_and_rms_does_not():
    rows = relation.growth(8, batches=4).rows
    small, large = (dict(row.facts, B=row.name.removeprefix("B=")) for row in (rows[0], rows[-1]))
    grown = [float(large[key]) / float(small[key]) for key in ("B", "edge fro", "edge rms")]
    assert grown == pytest.approx([64, 64, 1], rel=0.25)
