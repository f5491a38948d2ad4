"""What a configuration consists of: frozen dataclasses, each key with its default, role and meaning.

Sections that belong to one method are declared in its stage file (`Stage.sections`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from dist_rmd.config.key_types import (
    ClosedUnitInterval,
    FilePath,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Width,
)
from dist_rmd.config.roles import Leaf, Role, leaf, leaves, plain
from dist_rmd.errors import ConfigError

EncoderName = Literal["resnet10", "resnet18", "resnet34", "vgg13", "vgg16"]


@dataclass(frozen=True)
class Data:
    """Which images, and how they are read."""

    path: FilePath = leaf("data/cifar10", Role.PLACE)
    """folder made by `python -m dist_rmd.prepare`"""
    per_class: PositiveInt | None = leaf(None, Role.LABELS)
    """train on the first N images of every class only (all when null)"""
    skip: NonNegativeInt = leaf(0, Role.LABELS)
    """leave out the first N images of every class, before `per_class` counts: a teacher may have learned them"""
    holdout: Fraction = leaf(0.0, Role.LABELS)
    """fraction of every class's labels, as given, that are not trained on but measured (val/top1): to choose settings,
    and the best epoch, without a look at the test images"""
    reader: Literal["ffcv", "memory"] = leaf("ffcv", Role.EXECUTION)
    """ffcv: read the beton as training goes; memory: hold all images on the device"""
    workers: PositiveInt | None = leaf(None, Role.EXECUTION)
    """FFCV threads per rank (the rank's share of the cores when null)"""
    compile_views: bool = leaf(True, Role.EXECUTION)
    """compile the augmentation, on CPUs by numba (some 10 s, once), on GPUs by Triton (seconds, once; images up to
    128 x 128): the bits stay the same"""


@dataclass(frozen=True)
class Augment:
    """What random views of an image may look like; colours and padding follow SimSiam's CIFAR recipe."""

    crop_min: ClosedUnitInterval = leaf(0.2, Role.RESULT)
    """least area of a crop in the views of simsiam, as a fraction of the image's"""
    flip: bool = leaf(True, Role.RESULT)
    """mirror every other view; false for digits and text"""


@dataclass(frozen=True)
class Noise:
    """Which labels the training sees.  Accuracies are always measured on the clean labels of the test images."""

    kind: Literal["symmetric", "asymmetric", "pairflip", "instance", "openset", "file"] = leaf("symmetric", Role.LABELS)
    """symmetric: any other class with equal probability; asymmetric: the class that `class_map` says; pairflip: the
    next class; instance: one that depends on the pixels; openset: `rho1` and `rho2` say how much; file: the labels in
    `noise.file`, where rate and seed say nothing"""
    rate: ClosedUnitInterval = leaf(0.0, Role.LABELS)
    """fraction of the labels of every class (asymmetric: of every class in the map) that are changed"""
    seed: NonNegativeInt = leaf(0, Role.SEED)
    """seed of the changes; apart from `seed`, so that several runs share one set of labels"""
    class_map: dict[int, int] | str | None = leaf(None, Role.LABELS)
    """kind=asymmetric: which class is taken for which, such as {9: 1, 2: 0}, or cifar10, blocks, coarse (the usual one
    when null: cifar10 for CIFAR-10, blocks for CIFAR-100)"""
    exact: bool = leaf(True, Role.LABELS)
    """change exactly round(rate * n) of a class's n labels; false: each label by itself with probability rate"""
    include_true: bool = leaf(False, Role.LABELS)
    """kind=symmetric, openset: draw from all classes, so that 1 / classes of the labels drawn stay right"""
    rho1: ClosedUnitInterval = leaf(0.0, Role.LABELS)
    """kind=openset: fraction of the images whose label is wrong"""
    rho2: ClosedUnitInterval = leaf(0.0, Role.LABELS)
    """kind=openset: fraction of these that are images of none of the classes (prepare --open), and replace others"""
    keep_label: bool = leaf(False, Role.LABELS)
    """kind=openset: such an image goes by the label of the one it replaces; false: by a random one"""
    file: FilePath | None = leaf(None, Role.PLACE)
    """kind=file: .npy, .csv, CIFAR-10N's .pt, or the labels.npz of another run (docs/noise.md)"""
    column: str | None = leaf(None, Role.LABELS)
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

    name: EncoderName = leaf("resnet18", Role.NETWORK)
    """ResNet with the CIFAR stem (3x3 convolution, no max-pooling), or VGG with batch normalisation; resnet10 for tiny
    images on a CPU"""
    width: Width = leaf(64, Role.NETWORK)
    """channels of the first stage, at least 8; the feature has 8 times as many dimensions"""


@dataclass(frozen=True)
class Distributed:
    """Several processes."""

    sync_batchnorm: bool = leaf(True, Role.RESULT)
    """batch statistics over the global batch when there is more than one rank"""
    timeout: PositiveInt = leaf(600, Role.EXECUTION)
    """seconds after which a collective that some rank does not join fails"""
    static_graph: bool = leaf(False, Role.EXECUTION)
    """let DDP rely on every step using the same parameters in the same order"""
    compress: Literal["none", "bf16"] = leaf("none", Role.RESULT)
    """what gradients are rounded to on their way between ranks: bf16 halves the traffic, at 3 significant digits"""


@dataclass(frozen=True)
class Speed:
    """What makes training faster and changes it by rounding alone (docs/speed-options.md)."""

    compile: bool = leaf(False, Role.EXECUTION)
    """compile the networks of training with torch.compile: takes minutes before the first step"""
    cuda_graphs: bool = leaf(False, Role.EXECUTION)
    """launch the compiled network as one CUDA graph: for small batches, on one GPU"""

    def __post_init__(self) -> None:
        if self.cuda_graphs and not self.compile:
            raise ConfigError("speed.cuda_graphs=true replays what is compiled: it needs speed.compile=true")


@dataclass(frozen=True)
class Log:
    """What is written how often."""

    every: PositiveInt = leaf(50, Role.EXECUTION)
    """optimizer steps between two points of the training curves"""
    console_every: PositiveInt = leaf(30, Role.EXECUTION)
    """seconds between two lines where there is no terminal"""


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoints to resume from."""

    every: PositiveInt = leaf(1, Role.EXECUTION)
    """epochs between two checkpoints"""
    minutes: PositiveFloat = leaf(10.0, Role.EXECUTION)
    """minutes after which one is written within an epoch"""
    keep: PositiveInt = leaf(2, Role.EXECUTION)
    """how many of the newest are kept, beside the best"""


@dataclass(frozen=True)
class Run:
    """The run."""

    name: str = leaf("run", Role.EXECUTION)
    """the run folder is <out>/<name>"""
    out: FilePath = leaf("runs", Role.EXECUTION)
    """folder of all runs and of the artefacts they share"""
    seed: NonNegativeInt = leaf(0, Role.SEED)
    """seed of weights, batches and augmentation"""
    stages: tuple[str, ...] = leaf(("simsiam", "rgrl"), Role.EXECUTION)
    """what is trained, in this order"""
    inputs: dict[str, FilePath] = leaf({}, Role.PLACE)
    """stages that another run has trained, perhaps on other images: {teacher: its run folder, or artefact.pt}; images
    are then normalised as there"""
    device: Literal["auto", "cuda", "cpu"] = leaf("auto", Role.EXECUTION)
    """auto: the GPU where there is one"""
    precision: Literal["auto", "bf16", "fp16", "fp32", "fp64"] = leaf("auto", Role.RESULT)
    """auto: bf16 on GPUs, fp32 on CPUs; fp16 scales the loss; fp64 is for comparisons free of rounding"""
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    noise: Noise = field(default_factory=Noise)
    model: Model = field(default_factory=Model)
    dist: Distributed = field(default_factory=Distributed)
    speed: Speed = field(default_factory=Speed)
    log: Log = field(default_factory=Log)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)


Schedule = Literal["cosine", "restarts", "step", "constant"]


@dataclass(frozen=True)
class Optimization:
    """The optimizer and its schedule: the part of a stage's section that all stages share."""

    seed: NonNegativeInt | None = leaf(None, Role.SEED)
    """seed of this stage, where it is not the run's (null): runs of several seeds can share one teacher"""
    epochs: PositiveInt = 200
    """passes over the training images"""
    batch_size: PositiveInt = 64
    """images per optimizer step over all ranks (the global batch)"""
    lr: PositiveFloat = 0.1
    """initial learning rate"""
    optimizer: Literal["sgd", "adamw"] = leaf("sgd", Role.RESULT, added=True)
    """sgd; adamw: decoupled weight decay, betas 0.9 and 0.999; its lr is usually some 0.001, its weight_decay 0.05"""
    lr_scaling: bool = False
    """multiply lr by batch_size / 256"""
    momentum: NonNegativeFloat = 0.9
    """momentum of SGD"""
    weight_decay: NonNegativeFloat = 5e-4
    """weight decay, on all parameters"""
    schedule: Schedule = "cosine"
    """cosine: to zero over all steps; restarts: a cosine from each of `milestones` to the next, down to `gamma` of the
    initial rate; step: times `gamma` at each of `milestones`"""
    milestones: tuple[NonNegativeInt, ...] = ()
    """epochs after which schedule=step lowers the learning rate, or schedule=restarts begins anew"""
    gamma: PositiveFloat = 0.1
    """factor of schedule=step; lowest factor of schedule=restarts"""
    warmup_epochs: NonNegativeFloat = 0.0
    """epochs over which the learning rate grows linearly from zero"""
    grad_clip: PositiveFloat | None = None
    """largest norm of the gradient (no limit when null)"""
    eval_every: PositiveInt = 1
    """epochs between two evaluations; the last epoch is always evaluated"""


@dataclass(frozen=True)
class LabelledOptimization(Optimization):
    """The same of a stage that learns given labels, of which data.holdout keeps some apart."""

    patience: PositiveInt | None = leaf(None, Role.RESULT, added=True)
    """end the stage when val/top1, of the labels held out by data.holdout, has not risen for so many epochs (never when
    null); the schedule of the learning rate does not know of it"""


Section = TypeVar("Section")


@dataclass(frozen=True)
class Config(Run):
    """A whole configuration: the run's keys, and the sections of every stage there is."""

    sections: Mapping[str, Any] = field(default_factory=dict)
    """name -> frozen dataclass"""

    def section(self, kind: type[Section]) -> Section:
        """The stage section of this class.  Raises AttributeError when no stage declares one."""
        return _section(self.sections, kind, f"no stage declares a section {kind.__name__}")

    @property
    def tree(self) -> dict[str, Any]:
        """Every key of the run and every section, by name."""
        return {name: value for name, value in vars(self).items() if name != "sections"} | dict(self.sections)

    @property
    def leaves(self) -> dict[str, Leaf]:
        """Every key, such as task.lr, with its value and role."""
        return {key.removeprefix("sections."): leaf for key, leaf in leaves(self)}

    def only(self, sections: Mapping[str, type]) -> "StageConfig":
        """What a stage that declares these sections may read."""
        return StageConfig(self.seed, self.model, self.augment, {name: self.sections[name] for name in sections})


@dataclass(frozen=True)
class StageConfig:
    """All of a configuration that one stage may read, since it is all that its artefact's key is made of."""

    seed: int
    """of its weights, batches and augmentation"""
    model: Model
    """the encoder that it trains"""
    augment: Augment
    sections: Mapping[str, Any]
    """those that it declares: name -> frozen dataclass"""

    def section(self, kind: type[Section]) -> Section:
        """The section of this class.  Raises AttributeError when the stage does not declare it."""
        return _section(self.sections, kind, self._refusal(f"section {kind.__name__}"))

    def _refusal(self, what: str) -> str:
        declared = ", ".join(self.sections) or "none"
        return (
            f"a stage that declares the sections {declared} must not read {what} of the configuration: its artefact's "
            "key would not change with it; declare the section in `Stage.sections`"
        )

    if not TYPE_CHECKING:  # for mypy, an attribute that is not declared above is a mistake anyhow

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(name if name.startswith("__") else self._refusal(f"`{name}`"))


def _section(sections: Mapping[str, Any], kind: type[Section], otherwise: str) -> Section:
    for section in sections.values():
        if type(section) is kind:
            return section
    raise AttributeError(otherwise)


def to_dict(config: Config) -> dict[str, Any]:
    """Plain dicts, lists and scalars, as written to config.yaml and into artefacts."""
    return plain(config.tree)
