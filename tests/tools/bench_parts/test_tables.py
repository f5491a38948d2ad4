from dataclasses import asdict

import pytest

from tools.bench_parts.tables import Row, Table, compare, markdown, short, spread


def test_ratios_are_taken_round_by_round():
    rows = [
        Row("base", [1.0, 2.0]),
        Row("ours", [0.5, 0.5], "base"),
        Row("gone", absent="not installed"),
        Row("x", [1.0]),
    ]
    table = Table("t", "about", rows)
    assert table.ratios(rows[1]) == [2, 4]
    assert [table.ratios(rows[i]) for i in (0, 2, 3)] == [[], [], []]
    assert Table("t", "about", rows, "times as long").ratios(rows[1]) == [0.5, 0.25]


def test_markdown_leaves_out_empty_columns_and_shows_what_is_absent():
    rows = [
        Row("base", [0.001, 0.002]),
        Row("ours", [0.0005, 0.0005], "base", images=10),
        Row("gone", absent="because"),
    ]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown(Table("t", "a", rows)).split("\n")
    ]
    assert lines[4] == ["", "ms", "images/s", "times as fast"]
    assert lines[6:] == [
        ["base", "1.5 (1..2)", "", "1"],
        ["ours", "0.5 (0.5..0.5)", "20,000 (20,000..20,000)", "3 (2..4)"],
        ["gone", "because", "", ""],
    ]
    assert "ms" not in markdown(Table("t", "a", [Row("facts", facts={"edge": "1"})]))


@pytest.mark.parametrize(("number", "text"), [(0.012345, "0.0123"), (-12.3, "-12.3"), (1234.6, "1,235"), (0, "0")])
def test_short(number, text):
    assert short(number) == text


def test_spread():
    assert spread([3.0, 1.0, 2.0]) == "2 (1..3)"


def result(base: list[float], ours: list[float], **changes: str) -> dict:
    table = Table("t", "about", [Row("base", base), Row("ours", ours, "base")])
    kept = {"device": "d", "versions": "v", "commit": "c"} | changes
    return {**kept, "sections": {"step": {"tables": [asdict(table)], "error": ""}}}


@pytest.mark.parametrize(
    ("base", "ours", "verdict"),
    [
        ([1.0, 1.1, 1.2], [0.8, 0.85, 0.9], "slower"),
        ([1.0, 1.1, 1.2], [0.3, 0.31, 0.32], "faster"),
        ([2.0, 2.2, 2.4], [1.0, 1.1, 1.2], ""),  # the machine is half as fast
        ([0.5, 0.55, 0.6], [0.5, 0.55, 0.6], ""),  # the base is twice as fast
        ([1.0, 1.1, 1.2], [0.55, 0.9, 1.0], ""),  # one round as before
        ([1.0, 1.1, 1.2], [0.5001, 0.55, 0.6], ""),
    ],
)
def test_only_what_no_noise_explains_is_slower(base, ours, verdict):
    page, slower = compare(result([1.0, 1.1, 1.2], [0.5, 0.55, 0.6]), result(base, ours))
    (line,) = [line for line in page.splitlines() if "step: t: ours" in line]
    assert line.strip("|").split("|")[-1].strip() == verdict
    assert slower is (verdict == "slower")


def test_a_row_without_a_base_may_only_be_on_a_busier_machine():
    page, slower = compare(result([1.0], [1.0]), result([2.0], [2.0]))
    (line,) = [line for line in page.splitlines() if "step: t: base" in line]
    assert "slower?" in line
    assert not slower


def test_another_machine_and_missing_rows_are_said():
    old = result([1.0], [1.0])
    new = result([1.0], [1.0], device="other")
    new["sections"]["step"]["tables"][0]["rows"].pop()
    page, _ = compare(old, new)
    assert "device: d -> other" in page
    assert "versions" not in page
    assert "Not measured this time: step: t: ours" in page


def test_a_difference_lost_in_noise_is_not_judged():
    page, slower = compare(result([1.0], [-0.1]), result([1.0], [5.0]))
    assert not slower
    assert "step: t: ours" in page
