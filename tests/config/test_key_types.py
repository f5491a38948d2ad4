"""What keys take: texts become it, and what does not fit is refused in words that say what would."""

from typing import Any, Literal

import pytest

from dist_rmd.config import Fraction, Width
from dist_rmd.config.key_types import (
    ClosedUnitInterval,
    FilePath,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    fit,
    from_words,
)
from dist_rmd.errors import ConfigError

TABLE = dict[int, int] | str | None


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        *((str, text, text) for text in ("2024-01-01", "20240101", "0123", "12:30:00", "1_1", "1.10", "yes", "null")),
        *((str, text, text) for text in ("[a]", "a: b", "{a", "*a", "#1", "a #b", "!x", "%x", "- x", " x", "~")),
        (str, '"0123"', "0123"),
        (str, "'it''s'", "it's"),
        (str, '"a" or "b"', '"a" or "b"'),
        (str | None, "007", "007"),
        (str | None, "null", None),
        (str | None, "", None),
        (Literal["none", "no"], "no", "no"),
        (bool, "no", False),
        (bool, "True", True),
        (NonNegativeInt, "010", 10),
        (PositiveInt, "1_000", 1000),
        (PositiveFloat, "1e-3", 1e-3),
        (PositiveFloat, "1.0e-05", 1e-5),
        (PositiveFloat, ".inf", float("inf")),
        (ClosedUnitInterval, ".4", 0.4),
        (ClosedUnitInterval | None, "null", None),
        (tuple[str, ...], "[a, 01, yes]", ("a", "01", "yes")),
        (tuple[NonNegativeInt, ...], "[3, 010]", (3, 10)),
        (TABLE, "{9: 1}", {9: 1}),
        (TABLE, "blocks", "blocks"),
        (dict[str, Any], "{q: 0.50, 1: x}", {"q": 0.5, "1": "x"}),
        (dict[str, Any], "{agce: {q: 1.50, a: [1e-3, b]}}", {"agce": {"q": 1.5, "a": [1e-3, "b"]}}),
    ],
)
def test_a_text_on_the_command_line_becomes_what_the_key_takes(hint, text, value):
    found = fit("key", from_words("key", text, hint), hint)
    assert found == value
    assert type(found) is type(value)


def test_paths_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fit("out", "~/runs", FilePath) == f"{tmp_path}/runs"
    assert fit("inputs", {"teacher": "~/runs/a"}, dict[str, FilePath]) == {"teacher": f"{tmp_path}/runs/a"}
    assert fit("noise.file", 7, FilePath | None) == "7"


@pytest.mark.parametrize(
    ("hint", "text", "words"),
    [
        (tuple[str, ...], "simsiam", "key=simsiam: expected a list, such as key=[simsiam]"),
        (tuple[NonNegativeInt, ...], "[3, x]", "key=[3, x]: expected a list, each entry a whole number from 0 on"),
        (PositiveInt | None, "None", "key=None: expected a whole number above 0 or null"),
        (PositiveInt, "1.5", "key=1.5: expected a whole number above 0"),
        (PositiveInt, "true", "key=true: expected a whole number above 0"),
        (Width, "4", "key=4: expected a whole number from 8 on"),
        (ClosedUnitInterval, "0,4", "key=0,4: expected a number from 0 to 1; with a decimal point: 0.4"),
        (Fraction, "1", "key=1: expected a number from 0 to below 1"),
        (PositiveFloat, "nan", "key=nan: expected a number above 0"),
        (float, ".nan", "key=.nan: expected a number"),
        (bool, "1", "key=1: expected true or false"),
        (Literal["ce", "gce"], "cee", "key=cee: expected one of ce, gce"),
        (TABLE, "{a: 1}", "key={a: 1}: expected a table {a whole number: a whole number} or a text or null"),
        (dict[str, float], "3", "key=3: expected a table {a text: a number}"),
        (TABLE, "{9: 1, '9': 2}", "key={9: 1, '9': 2}: key '9' is given twice (line 1), and only one would count"),
    ],
)
def test_a_refusal_says_what_would_fit(hint, text, words):
    with pytest.raises(ConfigError) as caught:
        fit("key", from_words("key", text, hint), hint)
    assert str(caught.value) == words


@pytest.mark.parametrize("value", [{"a": 1}, [1], None])
def test_a_text_is_neither_a_table_nor_a_list(value):
    with pytest.raises(ConfigError, match="expected a text"):
        fit("name", value, str)


def test_two_spellings_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="expected a table"):
        fit("noise.class_map", {"9": 1, "09": 2}, dict[int, int])
