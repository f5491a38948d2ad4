from tools.bench_parts.growth import OPERATIONS, exponent


def test_growth_is_told_by_the_last_two_sizes():
    assert exponent({100: 3.0}) == ""
    assert exponent({100: 3.0, 1000: 300.0, 10_000: 3000.0}) == "1.00"
    assert exponent({100: 1.0, 1000: 100.0}) == "2.00"


def test_each_operation_finds_what_those_before_it_have_made(tmp_path):
    """The quick ones; the reports of pictures and the fits take seconds."""
    slow = ("division, mixture", "division, mixture, scaled by class", "report noise")
    for name, operation in OPERATIONS.items():
        if name not in slow:
            operation(tmp_path, 300, 3)()
    assert (tmp_path / "sweep" / "table.md").exists()
