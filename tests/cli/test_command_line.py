"""Every command takes options anywhere, and says in one line what was probably meant."""

import itertools
from pathlib import Path

import pytest

from dist_rmd import evaluate, prepare, registry, report, slurm
from dist_rmd.cli.command_line import Parser, configuration
from dist_rmd.errors import ConfigError
from dist_rmd.pipeline import command
from dist_rmd.sweep import __main__ as sweep


@pytest.mark.parametrize("words", list(itertools.permutations(["rmdnet/digits", "seed=1", "name=x", "--dry-run"])))
def test_options_configuration_and_keys_in_any_order(words):
    for module in (command, slurm):
        given = module.arguments(words)
        assert (given.config, given.dry_run) == (Path("rmdnet/digits"), True)
        assert given.overrides == [word for word in words if "=" in word]


def test_a_later_key_stays_later():
    assert command.arguments(["seed=2", "--force", "a.yaml", "seed=1"]).overrides == ["seed=2", "seed=1"]


def test_options_between_the_words_of_other_commands(monkeypatch, tmp_path, capsys):
    seen = []
    monkeypatch.setattr(evaluate, "evaluate", lambda *given: seen.append(given) or [])
    for words in (["a", "--best", "--data", "b"], ["--data", "b", "a", "--best"], ["--best", "a", "--data=b"]):
        assert evaluate.main(words) == 0
    assert {(str(run), str(data), best) for run, data, _, best in seen} == {("a", "b", True)}
    words = ["--dry-run", "rmdnet/cpu-grid", "--jobs", "2", "a.b=1", "--again", "c=2"]
    assert sweep._arguments(words).overrides == ["a.b=1", "c=2"]
    for number, words in enumerate((["digits", "OUT", "--side", "8"], ["--side", "8", "digits", "--skip-bad", "OUT"])):
        out = str(tmp_path / str(number))
        assert prepare.main([out if word == "OUT" else word for word in words]) == 0, capsys.readouterr()


def test_the_report_is_named_anywhere_and_its_options_stand_between_the_runs(monkeypatch, capsys):
    def tsne(runs, *, points: int = 3):
        """A report."""
        return f"{[str(run) for run in runs]} {points}"

    monkeypatch.setattr(report, "lookup", lambda kind, name: {"tsne": tsne}[name])
    monkeypatch.setattr(report, "available", lambda kind: ["tsne"])
    for words in ("tsne a --points 7 b", "--points 7 tsne a b", "a b tsne --points=7"):
        assert report.main(words.split()) == 0
        assert capsys.readouterr().out == "['a', 'b'] 7\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--task.epochs=3"], "--task.epochs=3: there is no such option; a key is given without dashes: task.epochs=3"),
        (["--task.epochs", "3"], "--task.epochs: there is no such option; a key is given without dashes: task.epochs="),
        (["--seed=3"], "--seed=3: there is no such option; a key is given without dashes: seed=3"),
        (["--dryrun"], "--dryrun: there is no such option; did you mean --dry-run?"),
        (["--dry"], "--dry: there is no such option; did you mean --dry-run?"),
        (["--quickly"], "unrecognized arguments: --quickly"),
        (["task.epochs", "3"], "task.epochs: a key needs a value: task.epochs=VALUE"),
        (["task.epochs", "=", "3"], "task.epochs =: a key and its value are one word: task.epochs=VALUE"),
        (["a.yaml", "seed=1", "b.yaml"], "a.yaml and b.yaml: one configuration at most, then key=value"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_was_meant(capsys, words, line):
    assert command.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1
    with pytest.raises(ConfigError) as raised:
        slurm.arguments(words)
    assert str(raised.value).startswith(line)


def test_a_file_whose_path_holds_an_equals_sign(tmp_path):
    path = tmp_path / "relation.k=0.1" / "config.yaml"
    path.parent.mkdir()
    assert configuration([str(path)]) == (None, [str(path)])
    path.write_text("seed: 1\n")
    assert configuration(["name=x.yaml", str(path)]) == (path, ["name=x.yaml"])


def test_keys_given_twice_are_told(capsys):
    assert command.main(["seed=1", "seed=2", "--print-config"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "warning: seed=1 has no effect: seed=2 comes after it\n"
    assert "\nseed: 2\n" in printed.out


def test_paths_begin_at_home_in_options_too(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.arguments(["~/a.yaml"]).config == tmp_path / "a.yaml"
    parser = prepare._parser()
    parser.add_options_of(registry.lookup("data.datasets", "webvision"), prepare._reader)
    given = parser.parse(["webvision", "~/out", "--from=~/web", "--test=~/tiny", "--exclude=~/list"])
    found = [path.relative_to(tmp_path) for path in (given.out, given.origin, given.test, given.exclude)]
    assert list(map(str, found)) == ["out", "web", "tiny", "list"]


def test_help_is_help(capsys):
    with pytest.raises(SystemExit) as ended:
        Parser(prog="x").parse(["--help"])
    assert ended.value.code == 0
