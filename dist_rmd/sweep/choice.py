"""Some cells of a grid, by their values on some axes: conditions of rules, and `--only axis=value,value`."""

from collections.abc import Mapping, Sequence
from typing import Any

from dist_rmd.errors import ConfigError
from dist_rmd.text.plain_yaml import spelled


def from_words(words: Sequence[str]) -> dict[str, list[str]]:
    """axis=value,value ... -> axis -> values.  Raises ConfigError."""
    if wrong := [word for word in words if "=" not in word]:
        raise ConfigError(f"--only {wrong[0]}: expected axis=value,value, such as method=CE,CE+RMDNet")
    return {axis: values.split(",") for axis, _, values in (word.partition("=") for word in words)}


def check(condition: Mapping[str, Any], axes: Mapping[str, Sequence[str]], where: str) -> None:
    """Raise ConfigError for an axis or value that there is not."""
    for axis, wanted in condition.items():
        if axis not in axes:
            raise ConfigError(f"{where}: there is no axis {axis!r}; the axes are {', '.join(axes)}")
        for value in listed(wanted):
            if value not in axes[axis]:
                raise ConfigError(f"{where}: {axis} has no {value!r}; it has {', '.join(axes[axis])}")


def holds(condition: Mapping[str, Any], coordinates: Mapping[str, str]) -> bool:
    """The cell at these coordinates is one of those meant."""
    return all(coordinates[axis] in listed(wanted) for axis, wanted in condition.items())


def narrowed(axes: Mapping[str, Sequence[str]], condition: Mapping[str, Any]) -> dict[str, list[str]]:
    """The axes with the values that are left of them."""
    return {axis: [v for v in values if v in listed(condition.get(axis, values))] for axis, values in axes.items()}


def listed(wanted: Any) -> list[str]:
    """One value or several, as texts."""
    return [spelled(value) for value in (wanted if isinstance(wanted, list | tuple) else [wanted])]


def in_words(coordinates: Mapping[str, Any]) -> str:
    """`method=CE, rate=0.2,0.4`."""
    return ", ".join(f"{axis}={','.join(listed(wanted))}" for axis, wanted in coordinates.items())
