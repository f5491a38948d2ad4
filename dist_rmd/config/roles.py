"""What it means to change a key of the configuration: one role for each key, beside the key's default.

Four places ask for it: the keys of artefacts (dist_rmd.pipeline.resolved), the comparison with a run folder's last
start, the grouping of runs into seeds of one recipe, and the record of a sweep.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Role(Enum):
    """What changes with a key.  Keys of stages' sections have the role RESULT unless they say otherwise."""

    RESULT = "result"
    """what a stage learns: the value enters the key of the stage's artefact"""
    NETWORK = "network"
    """the same, and weights of networks under different values do not fit"""
    LABELS = "labels"
    """which images and labels there are to learn from: these enter keys by content"""
    SEED = "seed"
    """the same experiment once more: enters keys, but makes no other recipe"""
    PLACE = "place"
    """where something is read: what lies there enters keys by content, whatever its path"""
    EXECUTION = "execution"
    """how a run is carried out, how far, and where its results go: no key changes"""

    @property
    def is_recipe(self) -> bool:
        """Runs that differ in it are no seeds of one another."""
        return self in (Role.RESULT, Role.NETWORK, Role.LABELS)

    @property
    def is_learned(self) -> bool:
        """A run that goes on under another value would mix two experiments."""
        return self.is_recipe or self is Role.SEED


class Leaf(NamedTuple):
    """One key's value, in plain containers, and its role."""

    value: Any
    role: Role


class Change(NamedTuple):
    """A key in which two configurations differ."""

    key: str
    old: Any
    new: Any
    role: Role

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def leaf(default: T, role: Role, added: bool = False) -> T:
    """The field of a dataclass that is a key of the configuration, with its default and its role.

    added: the key came when there were artefacts already.  At its default it does not enter their keys, which stay.
    """
    metadata = {"role": role, "added": added}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def stated(section: type, name: str) -> Role | None:
    """The role that the dataclass `section`, or the one that it inherits the key `name` from, gives to the key."""
    fields = (vars(kind).get("__dataclass_fields__", {}).get(name) for kind in section.__mro__)
    return next((field.metadata["role"] for field in fields if field and "role" in field.metadata), None)


def leaves(value: Any, key: str = "", role: Role = Role.RESULT) -> Iterator[tuple[str, Leaf]]:
    """Every key below `key` and its leaf, of a dataclass, a table or a plain value.

    What stands in a table, such as the hyper-parameters of a loss, has the table's role.
    """
    if dataclasses.is_dataclass(value):
        items = [(f.name, getattr(value, f.name), stated(type(value), f.name)) for f in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        items = [(name, item, role) for name, item in value.items()]
    else:
        yield key, Leaf(plain(value), role)
        return
    for name, item, own in items:
        yield from leaves(item, f"{key}.{name}" if key else str(name), own or Role.RESULT)


def differences(old: Mapping[str, Leaf], new: Mapping[str, Leaf]) -> list[Change]:
    """Every key in which two configurations differ, sorted; one that has no such key has the value `absent`."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        role = (new.get(key) or old[key]).role
        before, after = old.get(key, Leaf("absent", role)), new.get(key, Leaf("absent", role))
        if before.value != after.value:
            changes.append(Change(key, before.value, after.value, role))
    return changes


def determinants(section: Any) -> dict[str, Any]:
    """Of a section that a stage reads, the values that determine the stage's result."""
    return {
        field.name: plain(getattr(section, field.name))
        for field in dataclasses.fields(section)
        if (stated(type(section), field.name) or Role.RESULT).is_recipe
        and not (field.metadata.get("added") and getattr(section, field.name) == field.default)
    }


def plain(value: Any) -> Any:
    """Plain dicts, lists and scalars."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value
