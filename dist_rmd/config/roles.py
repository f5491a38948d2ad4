"""Roles of configuration keys: what changing a key means for results.

Each key states its role beside its default, in the dataclass.  Four places ask for the role: the hash of a stage's
artefact (dist_rmd.pipeline.resolved), the comparison with the last start in a run folder (dist_rmd.run.start), the
grouping of runs into seeds of one recipe (`report summary`), and the record of a sweep.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Role(Enum):
    """The effect of a change of a key.  Keys of stages' sections have the role RESULT unless they state another."""

    RESULT = "result"
    """what a stage learns: the value enters the hash of the stage's artefact"""
    NETWORK = "network"
    """like RESULT; moreover, weights trained under one value do not fit the network of another value"""
    LABELS = "labels"
    """which images and labels are learned: the images and labels themselves enter the hash, not this value"""
    SEED = "seed"
    """the same experiment again: enters the hash, but runs that differ in seeds alone are averaged in reports"""
    PLACE = "place"
    """the path of an input: the content of the file enters the hash, the path does not"""
    EXECUTION = "execution"
    """how a run is carried out, which stages it has, and where results are written: the hash stays the same"""

    @property
    def is_recipe(self) -> bool:
        """Whether runs that differ in this key are different recipes, not seeds of one recipe."""
        return self in (Role.RESULT, Role.NETWORK, Role.LABELS)

    @property
    def is_learned(self) -> bool:
        """Whether a run that resumes under another value would mix two experiments."""
        return self.is_recipe or self is Role.SEED


class Leaf(NamedTuple):
    """Value of one key, in plain containers, and the key's role."""

    value: Any
    role: Role


class Change(NamedTuple):
    """One key in which two configurations differ."""

    key: str
    old: Any
    new: Any
    role: Role

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def leaf(default: T, role: Role, added: bool = False) -> T:
    """Declare a key of the configuration: a dataclass field with its default and its role.

    added: the key is newer than existing artefacts.  Its default does not enter their hashes, which stay the same.
    """
    metadata = {"role": role, "added": added}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def stated(section: type, name: str) -> Role | None:
    """The role that the dataclass `section`, or a base class of it, states for the key `name`; None without a role."""
    fields = (vars(kind).get("__dataclass_fields__", {}).get(name) for kind in section.__mro__)
    return next((field.metadata["role"] for field in fields if field and "role" in field.metadata), None)


def leaves(value: Any, key: str = "", role: Role = Role.RESULT) -> Iterator[tuple[str, Leaf]]:
    """Flatten a dataclass, a dict or a plain value into dotted keys below `key`, each with its value and role.

    Entries of a dict, such as the hyper-parameters of a loss, have the role of the dict's own key.
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
    """All keys in which two configurations differ, sorted.  A missing key has the value "absent"."""
    changes = []
    for key in sorted(old.keys() | new.keys()):
        role = (new.get(key) or old[key]).role
        before, after = old.get(key, Leaf("absent", role)), new.get(key, Leaf("absent", role))
        if before.value != after.value:
            changes.append(Change(key, before.value, after.value, role))
    return changes


def determinants(section: Any) -> dict[str, Any]:
    """The values of a section that determine a stage's result: those that enter the artefact's hash."""
    return {
        field.name: plain(getattr(section, field.name))
        for field in dataclasses.fields(section)
        if (stated(type(section), field.name) or Role.RESULT).is_recipe
        and not (field.metadata.get("added") and getattr(section, field.name) == field.default)
    }


def plain(value: Any) -> Any:
    """Convert dataclasses and tuples, at any depth, to plain dicts and lists."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value
