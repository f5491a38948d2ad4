import pytest

from dist_rmd import report


@pytest.fixture
def called(monkeypatch):
    """The calls of a report that stands in for table, by its signature alone."""
    calls = []

    def standing_in(runs, *, grid: str | None = None, points: int = 1000, loud: bool = False) -> str:
        """Does nothing.

        runs: folders of runs.
        points: how many at most.
        """
        calls.append((list(map(str, runs)), grid, points, loud))
        return "said"

    real = report.lookup
    monkeypatch.setattr(report, "lookup", lambda kind, name: standing_in if name == "table" else real(kind, name))
    return calls


def test_keyword_only_parameters_are_options(called, capsys):
    assert report.main(["table", "--points", "5", "a", "b/c"]) == 0
    assert report.main(["table", "a", "--loud=true", "--grid", "mine"]) == 0
    assert report.main(["table3", "a"]) == 0
    assert called == [(["a", "b/c"], None, 5, False), (["a"], "mine", 1000, True), (["a"], "table3", 1000, False)]
    assert capsys.readouterr().out == "said\n" * 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["table", "--points", "many", "a"], "error: argument --points: points=many: expected a whole number"),
        (["table", "--pionts", "3", "a"], "error: --pionts: there is no such option; did you mean --points?"),
        (["table", "--point", "3", "a"], "error: --point: there is no such option; did you mean --points?"),
        (["table1", "--grid", "table2", "a"], "error: unrecognized arguments: --grid"),
        (["table"], "error: name at least one run folder"),
        ([], "error: name at least one run folder"),
    ],
)
def test_a_wrong_command_line_is_one_line(called, capsys, words, line):
    assert report.main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(line)
    assert printed.err.count("\n") == 1
    assert " --help)" in printed.err
    assert printed.out == ""
    assert not called


def test_help_of_one_report_explains_its_options(called, capsys):
    with pytest.raises(SystemExit) as exit:
        report.main(["table", "--help"])
    assert exit.value.code == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "dist-rmd report table" in words
    assert "--points POINTS how many at most" in words
    assert "RUN folders of runs" in words


def test_help_lists_all_reports(capsys):
    with pytest.raises(SystemExit):
        report.main(["--help"])
    text = capsys.readouterr().out
    assert "usage: dist-rmd report [WHAT] [--OPTION VALUE ...] RUN [RUN ...]" in text
    for name in ("noise", "summary", "table", "tableN", "tsne"):
        assert f"\n  {name} " in text


def test_without_a_name_it_is_the_summary(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: no run here (no config.yaml)\n"


def test_a_folder_of_runs_stands_for_the_runs_in_it(called, tmp_path):
    for name in ("b", "a", "sweep/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "sweep" / "sweep.json").touch()
    (tmp_path / "artefacts").mkdir()
    (tmp_path / "artefacts" / "simsiam-1.pt").touch()
    report.main(["table", str(tmp_path)])
    report.main(["table", *(str(tmp_path / name) for name in ("b", "artefacts", "sweep", "gone"))])
    report.main(["table", str(tmp_path / "artefacts")])
    assert [[run.removeprefix(f"{tmp_path}/") for run in runs] for runs, *_ in called] == [
        ["a", "b"], ["b", "sweep", "gone"], ["artefacts"],
    ]  # fmt: skip
