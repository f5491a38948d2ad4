"""The configuration is strict: every mistake is one line that names the key."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dist_rmd import config
from dist_rmd.config import Optimization, parse, to_dict, to_yaml
from dist_rmd.config.key_types import PositiveFloat
from dist_rmd.errors import ConfigError


@dataclass(frozen=True)
class Task(Optimization):
    lr: PositiveFloat = 0.001


@dataclass(frozen=True)
class Loss:
    name: str = "ce"
    options: dict[str, float] = field(default_factory=dict)


SECTIONS = {"task": Task, "loss": Loss}


def test_yaml_then_overrides(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("noise: {rate: 0.2}\ntask: {lr: 0.5, epochs: 7}\n")
    result = parse(file, ["noise.rate=.4", "task.lr=1e-3", "loss.options.q=0.5", "stages=[a, b]"], SECTIONS)
    assert (result.noise.rate, result.section(Task).lr, result.section(Task).epochs) == (0.4, 1e-3, 7)
    assert result.section(Loss).options == {"q": 0.5}
    assert result.stages == ("a", "b")


def test_a_class_map_in_every_way(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("noise: {kind: asymmetric, class_map: {9: 1}}\n")

    def table(file, *overrides):
        return parse(file, ["noise.kind=asymmetric", *overrides], SECTIONS).noise.class_map

    assert table(file) == table(None, "noise.class_map={9: 1}") == table(None, "noise.class_map.9=1") == {9: 1}
    assert table(file, "noise.class_map.9=2", "noise.class_map.4=7") == {9: 2, 4: 7}
    assert table(file, "noise.class_map={4: 7}") == {4: 7}
    assert table(file, "noise.class_map=coarse") == "coarse"
    assert table(file, "noise.class_map=null") is table(None) is None
    file.write_text(to_yaml(parse(file, [], SECTIONS)))
    assert table(file) == {9: 1}


def test_values_are_builtin():
    result = parse(None, ["task.milestones=[3]", "task.grad_clip=2", "data.workers=2"], SECTIONS)
    task = result.section(Task)
    values = [result.seed, task.lr, task.grad_clip, task.milestones[0], result.data.workers]
    assert [type(value) for value in values] == [int, float, float, int, int]


def test_printed_configuration_reads_back_equal(tmp_path):
    resolved = parse(None, ["task.milestones=[3, 4]", "loss.options.q=0.5", "data.workers=2"], SECTIONS)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(resolved))
    assert to_dict(parse(file, [], SECTIONS)) == to_dict(resolved)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("noise.ratte=0.4", ["noise.ratte", "noise.rate"]),
        ("task.learning=1", ["task.learning", "unknown key"]),
        ("noise.rate=1.4", ["noise.rate", "1.4"]),
        ("noise.rate=-0.1", ["noise.rate"]),
        ("noise.kind=typo", ["noise.kind", "symmetric"]),
        ("task.epochs=x", ["task.epochs"]),
        ("task.epochs=0", ["task.epochs"]),
        ("task.lr=0", ["task.lr"]),
        ("model.width=4", ["model.width", "8"]),
        ("seed=1.5", ["seed"]),
        ("seed=null", ["seed", "null"]),
        ("data=3", ["'data' in the command line is a section", "data.path"]),
        ("rate", ["key=value"]),
        ("data.path.more=1", ["data.path.more"]),
        ("noise.class_map.9=1", ["noise.class_map", "noise.kind=asymmetric", "symmetric"]),
        ("noise.kind=asymmetric noise.class_map={}", ["noise.class_map={}"]),
        ("noise.kind=asymmetric noise.class_map.a=1", ["noise.class_map", "{a: 1}"]),
        ("noise.kind=asymmetric noise.class_map.9=1.5", ["noise.class_map", "1.5"]),
        (
            "noise.kind=pairflip noise.include_true=true",
            ["noise.include_true", "noise.kind=symmetric and openset", "pairflip"],
        ),
        ("noise.kind=file", ["noise.kind=file", "needs noise.file"]),
        ("noise.kind=file noise.file=a.npy noise.exact=false", ["noise.exact=false", "noise.kind=file"]),
        (
            "noise.kind=file noise.file=a.npy noise.class_map=blocks",
            ["noise.class_map", "noise.kind=asymmetric", "file"],
        ),
        ("noise.file=a.npy", ["noise.file", "noise.kind=file", "symmetric"]),
        ("noise.column=label", ["noise.column", "noise.kind=file", "symmetric"]),
        ("noise.rho1=0.5", ["noise.rho1", "noise.kind=openset", "symmetric"]),
        ("noise.kind=file noise.file=a.npy noise.rho2=0.5", ["noise.rho2", "noise.kind=openset", "file"]),
        ("noise.keep_label=true", ["noise.keep_label", "noise.kind=openset"]),
        ("noise.kind=openset noise.rho1=1.5", ["noise.rho1", "1.5"]),
        ("noise.kind=openset noise.rate=0.4", ["noise.rate", "noise.rho1"]),
        ("noise.kind=openset noise.exact=false", ["noise.exact=false", "openset"]),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(override, words):
    with pytest.raises(ConfigError) as caught:
        parse(None, override.split(), SECTIONS)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", ["not valid YAML"]), ("- 1\n", ["key: value"]), ("noise: 3\n", ["noise"]), ("typo: 3\n", ["typo"])],
)
def test_broken_files_are_named(tmp_path, text, words):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse(file, [], SECTIONS)
    assert all(word in str(caught.value) for word in [*words, "broken.yaml"]), caught.value


@pytest.mark.parametrize("text", ["2024-01-01", "20240101", "1_1", "0123", "12:30:00", "yes", "true", "1.10"])
def test_names_are_texts_whatever_yaml_reads_into_them(tmp_path, text):
    file, printed = tmp_path / "a.yaml", tmp_path / "b.yaml"
    file.write_text(f"out: {text}\nnoise: {{kind: file, file: x.csv, column: {text}}}\n")
    result = parse(file, [f"name={text}"], SECTIONS)
    assert (result.name, result.out, result.noise.column) == (text, text, text)
    printed.write_text(to_yaml(result))
    assert to_dict(parse(printed, [], SECTIONS)) == to_dict(result)


def test_every_path_begins_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a.yaml"
    file.write_text("out: ~/runs\ndata: {path: ~/pets}\ninputs: {teacher: ~/runs/t}\n")
    labels = ["noise.kind=file", "noise.file=~/x.csv"]
    words = ["out=~/runs", "data.path=~/pets", "inputs.teacher=~/runs/t"]
    for result in (parse(file, labels, SECTIONS), parse(None, [*words, *labels], SECTIONS)):
        paths = (result.out, result.data.path, result.inputs["teacher"], result.noise.file)
        assert paths == tuple(f"{tmp_path}/{name}" for name in ("runs", "pets", "runs/t", "x.csv"))


def test_a_key_both_within_its_section_and_with_dots_is_refused(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("noise.rate: 0.4\nnoise: {seed: 7}\n")
    assert parse(file, [], SECTIONS).noise.rate == 0.4
    file.write_text("noise.rate: 0.4\nnoise: {seed: 7, rate: 0.2}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: key 'noise\.rate' is given twice"):
        parse(file, [], SECTIONS)


def test_a_wrong_value_is_said_to_be_from_where_it_was_given(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 3\n")
    with pytest.raises(ConfigError, match=r"from 0 to 1 \(from the command line\)"):
        parse(file, ["noise.rate=2"], SECTIONS)
    file.write_text("noise: {rate: 2}\n")
    with pytest.raises(ConfigError, match=r"from 0 to 1 \(from .*a\.yaml\)"):
        parse(file, ["seed=1"], SECTIONS)


def test_a_section_without_keys_is_empty(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("noise:\n#  rate: 0.4\ntask: {}\n")
    assert to_dict(parse(file, [], SECTIONS)) == to_dict(parse(None, [], SECTIONS))


def test_overrides_given_twice_are_told():
    words = ["task.lr=0.1", "seed=1", "seed=1", "task.lr=0.2", "task.lr=0.3"]
    assert parse(None, words, SECTIONS).section(Task).lr == 0.3
    assert config.repeated(words) == [
        "task.lr=0.1 has no effect: task.lr=0.2 comes after it",
        "task.lr=0.2 has no effect: task.lr=0.3 comes after it",
    ]
    assert config.repeated(["seed=1", "seed=2", "seed=1"]) == ["seed=2 has no effect: seed=1 comes after it"]
    assert config.repeated(["noise.class_map.9=1", "noise.class_map={4: 7}", "noise.class_map.5=6"]) == [
        "noise.class_map.9=1 has no effect: noise.class_map={4: 7} comes after it"
    ]
    assert config.repeated(["loss.name=ce", "loss.names=x", "noise.rate=1", "noise.rate=1"]) == []


@pytest.mark.parametrize("override", ["loss.options.q=null", "noise.class_map={9:1}", "task.lr=null"])
def test_nothing_is_no_value(override):
    with pytest.raises(ConfigError, match="cannot be null"):
        parse(None, [override], SECTIONS)


def test_graphs_of_what_is_not_compiled_are_refused():
    with pytest.raises(ConfigError, match=r"speed\.cuda_graphs=true .* needs speed\.compile=true"):
        parse(None, ["speed.cuda_graphs=true"], SECTIONS)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ConfigError, match="nesterov=true needs a momentum"):
        parse(None, ["task.nesterov=true", "task.momentum=0"], SECTIONS)


def test_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        parse(Path("nowhere.yaml"), [], SECTIONS)


def test_help_lists_every_key_with_type_and_meaning():
    text = config.help_text(SECTIONS)
    for words in (
        "noise.rate=0.0  (ClosedUnitInterval)\n      fraction of the labels",
        "task.milestones=[]  (list of NonNegativeInt)",
        "device=auto  (auto | cuda | cpu)",
        "data.workers=null  (PositiveInt | null)",
        "loss.options={}  (name: value)",
    ):
        assert words in text
