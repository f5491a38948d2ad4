"""YAML as it was meant: nothing given is lost, and no text becomes a number on its way."""

import pytest
import yaml

from dist_rmd.errors import ConfigError, DataError
from dist_rmd.text.plain_yaml import GivenTwice, load, read, spelled

TEXTS = ("0123", "12:30:00", "2024-01-01", "2024-01-01 10:00:00", "1_1", "1.10", "+5", "1e-3", ".5", "yes", "Off")


@pytest.mark.parametrize("text", TEXTS)
def test_what_only_looks_like_a_number_date_or_switch_stays_text(text):
    assert load(f"key: {text}") == {"key": text}


@pytest.mark.parametrize("text", ["7", "-3", "0.1", "true", "false", "null", "20240101"])
def test_a_scalar_can_be_written_as_it_was(text):
    value = load(text)
    assert not isinstance(value, str)
    assert spelled(value) == text


def test_quotes_make_a_text():
    assert load("[\"7\", 'true', '~']") == ["7", "true", "~"]
    assert load("[7, true, ~, ]") == [7, True, None]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("noise: {rate: 0.4}\nlog: 1\nnoise: {seed: 7}\n", r"key 'noise' is given twice \(lines 1 and 3\)"),
        ("noise: {rate: 0.4, rate: 0.2}", r"'noise.rate' is given twice \(line 1\)"),
        ("a: {b: {c: 1, d: 2, c: 1}}", r"'a.b.c'"),
        ("a:\n- {b: 1,\n   b: 2}", r"'a.b' is given twice \(lines 2 and 3\)"),
        ("{9: 1, '9': 2}", "'9' is given twice"),
        ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", "'y.<<'"),
    ],
)
def test_a_key_given_twice_is_refused_at_any_depth(tmp_path, text, words):
    with pytest.raises(GivenTwice, match=words):
        load(text)
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.yaml: .*{words}"):
        read(tmp_path / "a.yaml")


def test_anchors_and_merged_keys_are_no_repetition():
    text = "base: &base {lr: 0.1, epochs: 3}\nlong: {<<: *base, epochs: 9}\nsame: *base\n"
    base = {"lr": 0.1, "epochs": 3}
    assert load(text) == {"base": base, "long": {"lr": 0.1, "epochs": 9}, "same": base}


def test_what_holds_itself_is_refused():
    with pytest.raises(yaml.YAMLError, match="holds itself"):
        load("a: &a [1, *a]")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "not valid YAML: while parsing"),
        (b"a: 1\n\tb: 2", "not valid YAML: while scanning"),
        (b"a: 1\nb: caf\xe9", "line 2 holds a byte that is no UTF-8"),
        (b"a: !!python/object:os.system x", "not valid YAML: could not determine a constructor"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML: expected a single document"),
    ],
)
def test_broken_files_are_one_line(tmp_path, content, words):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.yaml: {words}") as caught:
        read(tmp_path / "a.yaml", DataError)
    assert "\n" not in str(caught.value)


def test_the_mark_and_line_ends_of_windows_are_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: caf\xc3\xa9\r\n")
    assert read(tmp_path / "a.yaml") == {"a": 1, "b": "café"}
    (tmp_path / "a.yaml").write_bytes(b"")
    assert read(tmp_path / "a.yaml") is None
