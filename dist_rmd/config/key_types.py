"""Types of configuration values: turns texts into values of a key's type, and explains values that do not fit."""

import difflib
import operator
import re
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NewType, Union, get_args, get_origin

import yaml
from jsonargparse import typing as restricted

from dist_rmd.cli.paths import user_path
from dist_rmd.errors import ConfigError
from dist_rmd.registry import available
from dist_rmd.text.plain_yaml import NOTHING, GivenTwice, load, spelled

if TYPE_CHECKING:  # mypy takes types that are made as the program runs for Any
    FilePath = str
    EncoderName = str
    PositiveInt = int
    NonNegativeInt = int
    Width = int
    PositiveFloat = float
    NonNegativeFloat = float
    ClosedUnitInterval = float
    Fraction = float
else:
    FilePath = NewType("FilePath", str)
    EncoderName = NewType("EncoderName", str)
    PositiveInt, NonNegativeInt = restricted.PositiveInt, restricted.NonNegativeInt
    PositiveFloat, NonNegativeFloat = restricted.PositiveFloat, restricted.NonNegativeFloat
    ClosedUnitInterval = restricted.ClosedUnitInterval
    Fraction = restricted.restricted_number_type("Fraction", float, [(">=", 0), ("<", 1)])
    # Narrower convolutions corrupt memory in torch 2.15's CPU kernels for channels_last.
    Width = restricted.restricted_number_type("Width", int, (">=", 8))
"""types of keys besides Python's own.  FilePath names a file or folder; a leading ~ stands for the home folder.
EncoderName names a file of dist_rmd/models/encoders, perhaps with a variant after a slash"""

SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NUMBER = re.compile(r"[-+]?(\d[\d_]*(\.\d*)?|\.\d+)(e[-+]?\d+)?|[-+]?\.?inf", re.IGNORECASE)
QUOTED = re.compile(r"\"([^\"\\]|\\.)*\"|'([^']|'')*'")
BOUNDS = {operator.gt: "above", operator.ge: "from", operator.lt: "to below", operator.le: "to"}


class _Unfit(Exception):
    """The value is not of the key's type."""


def fit(key: str, value: Any, hint: Any) -> Any:
    """Convert `value` to the type `hint` of `key`.  Raises ConfigError, which names the key and the expected type."""
    try:
        return _fitted(value, hint)
    except _Unfit:
        raise ConfigError(f"{key}={_shown(value)}: expected {_wanted(key, value, hint)}") from None


def from_words(key: str, text: str, hint: Any) -> Any:
    """Read the `text` of key=text on a command line; returns a value for `fit`.

    A key of type text keeps the text as it stands, even where YAML would read a number, a date or a truth value.
    Quotes around the whole text are removed.  Raises ConfigError when a table has the same name twice.
    """
    if takes_text(hint) and not QUOTED.fullmatch(text):
        nothing = text in NOTHING if type(None) in _parts(hint) else not text
        return None if nothing else text
    try:
        return load(text)
    except GivenTwice as error:
        raise ConfigError(f"{key}={text}: {error}") from None
    except yaml.YAMLError:
        return text


def takes_text(hint: Any) -> bool:
    """Whether all values of this type are texts, or null."""
    return all(part in (str, FilePath, EncoderName, type(None)) or get_origin(part) is Literal for part in _parts(hint))


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fitted(value: Any, hint: Any) -> Any:
    for part in _parts(hint):
        try:
            return _of_one_type(value, part)
        except _Unfit:
            continue
    raise _Unfit


def _of_one_type(value: Any, hint: Any) -> Any:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return _freely(value)
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(_fitted(item, inner[0]) for item in value)
    if kind is dict and isinstance(value, Mapping):
        table = {_fitted(name, inner[0]): _fitted(item, inner[1]) for name, item in value.items()}
        if len(table) == len(value):  # a shorter table: two of its names mean the same, such as 9 and "9"
            return table
    if kind is type(None) and value is None:
        return None
    if not isinstance(value, str | bool | int | float):
        raise _Unfit
    text = spelled(value)
    if kind is Literal and text in inner:
        return text
    if kind is FilePath:
        return str(user_path(text))
    if kind is EncoderName and text.partition("/")[0] in available("models.encoders"):
        return text
    if kind is str:
        return text
    if kind is bool and text.lower() in SWITCHES:
        return SWITCHES[text.lower()]
    if isinstance(kind, type) and issubclass(kind, int | float) and kind is not bool:
        return _checked_number(_number(value), kind)
    raise _Unfit


def _freely(value: Any) -> Any:
    """Options of a plug-in, whose types are not known here: texts that spell a number become numbers, at any depth."""
    if isinstance(value, Mapping):
        return {name: _freely(item) for name, item in value.items()}
    return [_freely(item) for item in value] if isinstance(value, list | tuple) else _number(value)


def _number(value: Any) -> Any:
    """The number that a text spells in decimal digits; any other value unchanged."""
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        return value
    try:
        return int(value)
    except ValueError:
        return float(value.replace(".inf", "inf"))


def _checked_number(value: Any, kind: type) -> Any:
    try:
        if not isinstance(value, str | bool) and kind(value) == value:  # ValueError: out of range
            return (int if issubclass(kind, int) else float)(value)  # checkpoints and YAML hold builtin types only
    except (ValueError, OverflowError):
        pass
    raise _Unfit


def _shown(value: Any) -> str:
    """The value as a user would type it on a command line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_shown(name)}: {_shown(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return spelled(value) if isinstance(value, str | bool | int | float | None) else str(value)


def _wanted(key: str, value: Any, hint: Any) -> str:
    words = " or ".join(_in_words(key, value, part) for part in _parts(hint))
    if isinstance(value, str) and value.count(",") == 1 and NUMBER.fullmatch(value.replace(",", ".")):
        return f"{words}; with a decimal point: {value.replace(',', '.')}"
    return words


def _in_words(key: str, value: Any, hint: Any) -> str:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(inner)}"
    if kind is EncoderName:
        names = available("models.encoders")
        near = difflib.get_close_matches(str(value).partition("/")[0], names, n=1)
        return f"one of {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")
    if kind is tuple and not isinstance(value, list | tuple):
        return f"a list, such as {key}=[{_shown(value)}]"
    if kind is tuple:
        return f"a list, each entry {_in_words(key, None, inner[0])}"
    if kind is dict:
        return f"a table {{{': '.join(_in_words(key, None, part) for part in inner)}}}"
    if isinstance(kind, type) and issubclass(kind, int | float) and kind is not bool:
        return ("a whole number" if issubclass(kind, int) else "a number") + _range(kind)
    return {bool: "true or false", FilePath: "a path", str: "a text", type(None): "null"}.get(kind, "any value")


def _range(kind: type) -> str:
    """The range of a restricted number type, in words."""
    bounds = [f"{BOUNDS[compared]} {limit}" for compared, limit in getattr(kind, "_restrictions", ())]
    return "".join(f" {bound}" for bound in bounds) + " on" * (len(bounds) == 1 and bounds[0].startswith("from"))
