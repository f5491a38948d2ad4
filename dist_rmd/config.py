"""One strict configuration: frozen dataclasses <- YAML <- key=value.

A wrong key, type or value is one line that names the key, before any work.  Sections that belong to one method are
declared in its stage file (`Stage.sections`) and handed to `parse`.
"""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

from dist_rmd import plain_yaml
from dist_rmd.errors import ConfigError
from dist_rmd.key_types import FilePath, fit, from_words

set_parsing_settings(docstring_parse_attribute_docstrings=True)

EncoderName = Literal["resnet10", "resnet18", "resnet34", "vgg13", "vgg16"]

if TYPE_CHECKING:
    Width = int
    Fraction = float
else:
    # Narrower convolutions corrupt memory in torch 2.15's CPU kernels for channels_last.
    Width = restricted_number_type("Width", int, (">=", 8))
    Fraction = restricted_number_type("Fraction", float, [(">=", 0), ("<", 1)])


@dataclass(frozen=True)
class Data:
    """Which images, and how they are read."""

    path: FilePath = "data/cifar10"
    """folder made by `python -m dist_rmd.prepare`"""
    per_class: PositiveInt | None = None
    """train on the first N images of every class only (all when null)"""
    skip: NonNegativeInt = 0
    """leave out the first N images of every class, before `per_class` counts: a teacher may have learned them"""
    holdout: Fraction = 0.0
    """fraction of every class's labels, as given, that are not trained on but measured (val/top1): to choose settings,
    and the best epoch, without a look at the test images"""
    reader: Literal["ffcv", "memory"] = "ffcv"
    """ffcv: read the beton as training goes; memory: hold all images on the device"""
    workers: PositiveInt | None = None
    """FFCV threads per rank (the rank's share of the cores when null)"""
    compile_views: bool = True
    """compile the augmentation, on CPUs by numba (some 10 s, once), on GPUs by Triton (seconds, once; images up to
    128 x 128): the bits stay the same"""


@dataclass(frozen=True)
class Augment:
    """What random views of an image may look like; colours and padding follow SimSiam's CIFAR recipe."""

    crop_min: ClosedUnitInterval = 0.2
    """least area of a crop in the views of simsiam, as a fraction of the image's"""
    flip: bool = True
    """mirror every other view; false for digits and text"""


@dataclass(frozen=True)
class Noise:
    """Which labels the training sees.  Accuracies are always measured on the clean labels of the test images."""

    kind: Literal["symmetric", "asymmetric", "pairflip", "instance", "openset", "file"] = "symmetric"
    """symmetric: any other class with equal probability; asymmetric: the class that `class_map` says; pairflip: the
    next class; instance: one that depends on the pixels; openset: `rho1` and `rho2` say how much; file: the labels in
    `noise.file`, where rate and seed say nothing"""
    rate: ClosedUnitInterval = 0.0
    """fraction of the labels of every class (asymmetric: of every class in the map) that are changed"""
    seed: NonNegativeInt = 0
    """seed of the changes; apart from `seed`, so that several runs share one set of labels"""
    class_map: dict[int, int] | str | None = None
    """kind=asymmetric: which class is taken for which, such as {9: 1, 2: 0}, or cifar10, blocks, coarse (the usual one
    when null: cifar10 for CIFAR-10, blocks for CIFAR-100)"""
    exact: bool = True
    """change exactly round(rate * n) of a class's n labels; false: each label by itself with probability rate"""
    include_true: bool = False
    """kind=symmetric, openset: draw from all classes, so that 1 / classes of the labels drawn stay right"""
    rho1: ClosedUnitInterval = 0.0
    """kind=openset: fraction of the images whose label is wrong"""
    rho2: ClosedUnitInterval = 0.0
    """kind=openset: fraction of these that are images of none of the classes (prepare --open), and replace others"""
    keep_label: bool = False
    """kind=openset: such an image goes by the label of the one it replaces; false: by a random one"""
    file: FilePath | None = None
    """kind=file: .npy, .csv, CIFAR-10N's .pt, or the labels.npz of another run (docs/noise.md)"""
    column: str | None = None
    """kind=file: the column of a .csv (label when null) or of a .pt"""

    def __post_init__(self) -> None:
        if self.kind == "file" and self.file is None:
            raise ConfigError("noise.kind=file needs noise.file, the labels to train on")
        if self.kind != "asymmetric" and self.class_map is not None:
            raise ConfigError(f"noise.class_map is for noise.kind=asymmetric, but the kind is {self.kind}")
        if self.class_map == {}:
            raise ConfigError("noise.class_map={} changes no class: leave it out, or give one such as {9: 1, 2: 0}")
        if self.kind not in ("symmetric", "openset") and self.include_true:
            raise ConfigError(
                f"noise.include_true=true is for noise.kind=symmetric and openset, but the kind is {self.kind}"
            )
        for key in ("rho1", "rho2", "keep_label"):
            if self.kind != "openset" and getattr(self, key):
                raise ConfigError(f"noise.{key} is for noise.kind=openset, but the kind is {self.kind}")
        if self.kind == "openset" and self.rate:
            raise ConfigError("noise.rate says nothing of noise.kind=openset: give noise.rho1 and noise.rho2 instead")
        if self.kind == "openset" and not self.exact:
            raise ConfigError("noise.exact=false is for other kinds: noise.kind=openset always is exact")
        if self.kind == "file" and not self.exact:
            raise ConfigError(
                "noise.exact=false is for labels that are changed, but noise.kind=file takes them as given"
            )
        if self.kind != "file" and (self.file or self.column):
            key = "file" if self.file else "column"
            raise ConfigError(f"noise.{key} is for noise.kind=file, but the kind is {self.kind}")


@dataclass(frozen=True)
class Model:
    """The encoder of every stage that has no choice of its own."""

    name: EncoderName = "resnet18"
    """ResNet with the CIFAR stem (3x3 convolution, no max-pooling), or VGG with batch normalisation; resnet10 for tiny
    images on a CPU"""
    width: Width = 64
    """channels of the first stage, at least 8; the feature has 8 times as many dimensions"""


@dataclass(frozen=True)
class Distributed:
    """Several processes."""

    sync_batchnorm: bool = True
    """batch statistics over the global batch when there is more than one rank"""
    timeout: PositiveInt = 600
    """seconds after which a collective that some rank does not join fails"""
    static_graph: bool = False
    """let DDP rely on every step using the same parameters in the same order"""
    compress: Literal["none", "bf16"] = "none"
    """what gradients are rounded to on their way between ranks: bf16 halves the traffic, at 3 significant digits"""


@dataclass(frozen=True)
class Speed:
    """What makes training faster and changes it by rounding alone (docs/speed-options.md)."""

    compile: bool = False
    """compile the networks of training with torch.compile: takes minutes before the first step"""
    cuda_graphs: bool = False
    """launch the compiled network as one CUDA graph: for small batches, on one GPU"""

    def __post_init__(self) -> None:
        if self.cuda_graphs and not self.compile:
            raise ConfigError("speed.cuda_graphs=true replays what is compiled: it needs speed.compile=true")


@dataclass(frozen=True)
class Log:
    """What is written how often."""

    every: PositiveInt = 50
    """optimizer steps between two points of the training curves"""
    console_every: PositiveInt = 30
    """seconds between two lines where there is no terminal"""


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoints to resume from."""

    every: PositiveInt = 1
    """epochs between two checkpoints"""
    minutes: PositiveFloat = 10.0
    """minutes after which one is written within an epoch"""
    keep: PositiveInt = 2
    """how many of the newest are kept, beside the best"""


@dataclass(frozen=True)
class Run:
    """The run."""

    name: str = "run"
    """the run folder is <out>/<name>"""
    out: FilePath = "runs"
    """folder of all runs and of the artefacts they share"""
    seed: NonNegativeInt = 0
    """seed of weights, batches and augmentation"""
    stages: tuple[str, ...] = ("simsiam", "rgrl")
    """what is trained, in this order"""
    inputs: dict[str, FilePath] = field(default_factory=dict)
    """stages that another run has trained, perhaps on other images: {teacher: its run folder, or artefact.pt}; images
    are then normalised as there"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: the GPU where there is one"""
    precision: Literal["auto", "bf16", "fp16", "fp32", "fp64"] = "auto"
    """auto: bf16 on GPUs, fp32 on CPUs; fp16 scales the loss; fp64 is for comparisons free of rounding"""
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    noise: Noise = field(default_factory=Noise)
    model: Model = field(default_factory=Model)
    dist: Distributed = field(default_factory=Distributed)
    speed: Speed = field(default_factory=Speed)
    log: Log = field(default_factory=Log)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)


@dataclass(frozen=True)
class Optimization:
    """SGD and its schedule: the part of a stage's section that all stages share."""

    seed: NonNegativeInt | None = None
    """seed of this stage, where it is not the run's (null): runs of several seeds can share one teacher"""
    epochs: PositiveInt = 200
    """passes over the training images"""
    batch_size: PositiveInt = 64
    """images per optimizer step over all ranks (the global batch)"""
    lr: PositiveFloat = 0.1
    """initial learning rate"""
    lr_scaling: bool = False
    """multiply lr by batch_size / 256"""
    momentum: NonNegativeFloat = 0.9
    """momentum of SGD"""
    weight_decay: NonNegativeFloat = 5e-4
    """weight decay of SGD, on all parameters"""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """cosine: to zero over all steps; step: times `gamma` at each of `milestones`"""
    milestones: tuple[NonNegativeInt, ...] = ()
    """epochs after which schedule=step lowers the learning rate"""
    gamma: PositiveFloat = 0.1
    """factor of schedule=step"""
    warmup_epochs: NonNegativeFloat = 0.0
    """epochs over which the learning rate grows linearly from zero"""
    grad_clip: PositiveFloat | None = None
    """largest norm of the gradient (no limit when null)"""
    eval_every: PositiveInt = 1
    """epochs between two evaluations; the last epoch is always evaluated"""


Config = Namespace  # the fields of Run and one attribute per stage section, each a frozen dataclass


def parse(file: Path | None, overrides: Sequence[str], sections: Mapping[str, type]) -> Config:
    """Read one YAML file (defaults alone when None), apply `key=value` overrides, check everything.

    Raises ConfigError, in one line that names the key and where it stands.
    """
    checker, keys = _parser(tuple(sections.items()))
    tree: dict = {}
    origins: dict[str, str] = {}
    for key, value in _leaves(read_yaml(file)) if file else ():
        if key in keys.groups and value in (None, {}):
            continue  # a section without keys
        keys.check(key, str(file))
        if key in origins:
            raise ConfigError(f"{file}: key {key!r} is given twice, once within its section and once with dots")
        origins[key] = str(file)
        _put(tree, key, value)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} on the command line: expected one YAML file and key=value overrides")
        keys.check(key, "the command line")
        origins[key] = "the command line"
        _put(tree, key, from_words(key, text, keys.hint(key)))
    _check_nulls(tree, checker)
    keys.fit(tree, origins)
    try:
        return _builtin(checker.instantiate(checker.parse_object(tree)))
    except (Exception, SystemExit) as error:  # jsonargparse raises several kinds; all of them speak of the values given
        message = " ".join(str(error).replace("Parser key", "key").split())
        places = dict.fromkeys(origins.values())  # in their order
        raise ConfigError(f"{message} (from {' and '.join(places)})") from None


def repeated(overrides: Sequence[str]) -> list[str]:
    """A line for each key that a command line gives twice, with different values."""
    first: dict[str, str] = {}
    last = {}
    for override in overrides:
        key = override.partition("=")[0]
        first.setdefault(key, override)
        last[key] = override
    return [f"{first[key]} has no effect: {last[key]} comes after it" for key in last if last[key] != first[key]]


def help_text(sections: Mapping[str, type]) -> str:
    """Every key with its default, its type and what it means, by section."""
    lines = []
    checker, _ = _parser(tuple(sections.items()))
    for group in checker._action_groups:
        keys = [action for action in group._group_actions if hasattr(action, "_typehint")]
        lines += ["", f"{group.title}"] if keys else []
        for key in keys:
            default = yaml.safe_dump(to_dict(key.default), default_flow_style=True).splitlines()[0]
            lines += [f"  {key.dest}={default}  ({_type_name(key._typehint)})", f"      {key.help}"]
    return "\n".join(lines)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(get_args(hint))
    names = [getattr(part, "__name__", str(part)).replace("NoneType", "null") for part in get_args(hint) or (hint,)]
    return {tuple: f"list of {names[0]}", dict: "name: value"}.get(get_origin(hint), " | ".join(names))


def to_dict(config: Any) -> Any:
    """Plain dicts, lists and scalars, as written to config.yaml and into artefacts."""
    if isinstance(config, Namespace):
        return {key: to_dict(value) for key, value in vars(config).items()}
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    return [to_dict(item) for item in config] if isinstance(config, tuple | list) else config


def to_yaml(config: Any) -> str:
    """The resolved configuration as YAML that `parse` reads back to the same values."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def differences(old: Mapping, new: Mapping) -> list[str]:
    """`key: old -> new` for every leaf in which two `to_dict` trees differ."""
    before, after = dict(_items(old)), dict(_items(new))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def _builtin(value: Any) -> Any:
    """`value` with int for PositiveInt and so on: only builtin types may reach checkpoints and YAML."""
    if isinstance(value, Namespace):
        return Namespace(**{key: _builtin(item) for key, item in vars(value).items()})
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _builtin(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, tuple | list):
        return type(value)(_builtin(item) for item in value)
    if isinstance(value, dict):
        return {key: _builtin(item) for key, item in value.items()}
    if value is None or isinstance(value, bool):
        return value
    return next(kind(value) for kind in (int, float, str) if isinstance(value, kind))


def read_yaml(file: Path) -> dict:
    """The tree of a YAML file.  Raises ConfigError when it cannot be read or is no mapping."""
    tree = plain_yaml.read(file)
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else type(tree).__name__
        raise ConfigError(f"{file}: expected `key: value` lines, got {found}")
    return tree


def _leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; an empty table is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _items(tree: Mapping, prefix: str = "") -> list[tuple[str, Any]]:
    result: list[tuple[str, Any]] = []
    for key, value in tree.items():
        result += _items(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return result


class _Keys:
    """The keys that a parser knows."""

    def __init__(self, checker: ArgumentParser):
        known = [action.dest for action in checker._actions]
        self.groups = {name[:place] for name in known for place, letter in enumerate(name) if letter == "."}
        self.leaves = [name for name in known if name not in self.groups]
        self.hints = {action.dest: getattr(action, "_typehint", None) for action in checker._actions}
        # What stands below is free, such as the hyper-parameters of a plug-in.
        self.tables = {f"{name}.": inner for name, hint in self.hints.items() if (inner := _inside_table(hint))}

    def check(self, key: str, where: str) -> None:
        """Raise ConfigError, naming the nearest known key, when `key` is none."""
        if key in self.leaves or key.startswith(tuple(self.tables)):
            return
        if key in self.groups:
            inside = ", ".join(name for name in self.leaves if name.startswith(f"{key}."))
            raise ConfigError(f"{key!r} in {where} is a section, and takes no value itself: it has {inside}")
        near = difflib.get_close_matches(key, self.leaves, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "`--help` lists all keys"
        raise ConfigError(f"unknown key {key!r} in {where}: {hint}")

    def hint(self, key: str) -> Any:
        """The type of a key, which may stand within a table."""
        return next((inner for table, inner in self.tables.items() if key.startswith(table)), self.hints.get(key))

    def fit(self, tree: dict, origins: Mapping[str, str], prefix: str = "") -> None:
        """Turn each value of a nested tree into what its key takes.

        origins: where each key, or one within its table, was given.  Raises ConfigError.
        """
        for name, value in tree.items():
            key = f"{prefix}{name}"
            if key in self.groups:
                self.fit(value, origins, f"{key}.")
                continue
            try:
                tree[name] = fit(key, value, self.hints[key])
            except ConfigError as error:
                places = [place for given, place in origins.items() if f"{given}.".startswith(f"{key}.")]
                raise ConfigError(f"{error} (from {' and '.join(dict.fromkeys(places))})") from None


@cache  # a sweep reads hundreds of configurations
def _parser(sections: tuple[tuple[str, type], ...]) -> tuple[ArgumentParser, _Keys]:
    checker = ArgumentParser(exit_on_error=False)
    checker.add_class_arguments(Run)
    for name, section in sections:
        checker.add_class_arguments(section, name)
    return checker, _Keys(checker)


def _inside_table(hint: Any) -> Any:
    """The type of a table's values, None where `hint` holds no table."""
    tables = [part for part in (hint, *get_args(hint)) if get_origin(part) is dict]
    return get_args(tables[0])[1] if tables else None


def _check_nulls(tree: Mapping, checker: ArgumentParser) -> None:
    """jsonargparse takes null for any type; here only a key whose default is null may be null."""
    known = {action.dest for action in checker._actions}  # what stands within a table is not
    for key, value in _items(tree):
        if value is None and (key not in known or checker.get_default(key) is not None):
            raise ConfigError(f"key {key!r} cannot be null")


def _put(tree: dict, key: str, value: Any) -> bool:
    """Set a dotted key of a nested tree.  Returns whether it replaced one."""
    *path, last = key.split(".")
    for part in path:
        child = tree.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(f"key {key!r}: {part} is given as {child!r}, so it has no {last}")
        tree = child
    given = last in tree
    tree[last] = value
    return given
