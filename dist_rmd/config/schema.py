"""The keys of a run's configuration: frozen dataclasses, each key with its default, role and meaning.

Sections that belong to one method are declared in the method's stage file (`Stage.sections`).  The text under a key is
what `train --help` prints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from dist_rmd.config.key_types import (
    ClosedUnitInterval,
    EncoderName,
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


@dataclass(frozen=True)
class Data:
    """Training images, and how they are read."""

    path: FilePath = leaf("data/cifar10", Role.PLACE)
    """folder made by `python -m dist_rmd.prepare`"""
    per_class: PositiveInt | None = leaf(None, Role.LABELS)
    """train on the first N images of every class only (all when null)"""
    skip: NonNegativeInt = leaf(0, Role.LABELS)
    """leave out the first N images of every class before `per_class` counts, such as the images of a teacher"""
    holdout: Fraction = leaf(0.0, Role.LABELS)
    """fraction of every class's noisy labels that is held out of training and measured (val/top1), to choose settings
    and the best epoch without test images"""
    reader: Literal["ffcv", "memory"] = leaf("ffcv", Role.EXECUTION)
    """ffcv: read the .beton file during training; memory: hold all images on the device"""
    workers: PositiveInt | None = leaf(None, Role.EXECUTION)
    """FFCV threads per rank (the rank's share of the cores when null)"""
    compile_views: bool = leaf(True, Role.EXECUTION)
    """compile the augmentation: with numba on CPUs (10 s, once), with Triton on GPUs (seconds, once; images up to
    128 x 128); pixels stay the same to the bit"""


@dataclass(frozen=True)
class Augment:
    """Random views of an image; colours and padding follow SimSiam's CIFAR recipe."""

    crop_min: ClosedUnitInterval = leaf(0.2, Role.RESULT)
    """smallest area of a crop in SimSiam's views, as a fraction of the image's area"""
    flip: bool = leaf(True, Role.RESULT)
    """mirror views with probability 1/2; set to false for digits and text"""


@dataclass(frozen=True)
class Noise:
    """Noise of the training labels.  Test accuracy is always measured on the test images' own labels."""

    kind: Literal["symmetric", "asymmetric", "pairflip", "instance", "openset", "file"] = leaf("symmetric", Role.LABELS)
    """symmetric: any other class with equal probability; asymmetric: the class that `class_map` names; pairflip: the
    next class; instance: a class that depends on the pixels; openset: closed-set and open-set noise by `rho1` and
    `rho2`; file: the labels in `noise.file`, where rate and seed have no effect"""
    rate: ClosedUnitInterval = leaf(0.0, Role.LABELS)
    """fraction of the labels of every class (asymmetric: of every class in the map) that is changed"""
    seed: NonNegativeInt = leaf(0, Role.SEED)
    """seed of the noise; separate from `seed`, so that several runs share one set of noisy labels"""
    class_map: dict[int, int] | str | None = leaf(None, Role.LABELS)
    """kind=asymmetric: true class -> noisy class, such as {9: 1, 2: 0}, or a map by name: cifar10, blocks, coarse
    (when null: cifar10 for CIFAR-10, blocks for CIFAR-100)"""
    exact: bool = leaf(True, Role.LABELS)
    """change exactly round(rate * n) of the n labels of a class; false: change each label with probability rate"""
    include_true: bool = leaf(False, Role.LABELS)
    """kind=symmetric, openset: draw from all classes, the true class included, so 1/C of the drawn labels are right"""
    rho1: ClosedUnitInterval = leaf(0.0, Role.LABELS)
    """kind=openset: fraction of noisy images, closed-set and open-set"""
    rho2: ClosedUnitInterval = leaf(0.0, Role.LABELS)
    """kind=openset: fraction of the noisy images that are open-set images (prepare --open)"""
    keep_label: bool = leaf(False, Role.LABELS)
    """kind=openset: an open-set image has the label of the image that it replaces; false: a random label"""
    file: FilePath | None = leaf(None, Role.PLACE)
    """kind=file: .npy, .csv, CIFAR-10N's .pt, or the labels.npz of another run (docs/noise.md)"""
    column: str | None = leaf(None, Role.LABELS)
    """kind=file: column of the .csv ("label" when null) or of the .pt"""

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
    """Encoder of every stage that does not choose its own."""

    name: EncoderName = leaf("resnet18", Role.NETWORK)
    """a file of dist_rmd/models/encoders: a ResNet with the CIFAR stem (3x3 convolution, no max-pooling), or with that
    for large images, as in resnet50/imagenet; a VGG with batch normalisation; resnet10 for tiny images on a CPU;
    timm/<name>, any network of that library (docs/weights.md)"""
    width: Width = leaf(64, Role.NETWORK)
    """channels of the encoder's first block, at least 8; features have 8 times as many dimensions, from
    resnet50 on 32 times"""
    init: Literal["fan_out", "torch"] = leaf("fan_out", Role.RESULT, added=True)
    """initial weights.  fan_out: He et al. 2015 by outputs, as torchvision has it; torch: as in the code of MODUL's
    authors, for a ResNet those of torch, which are 0.4 times as long, for a VGG fan_out with half the scale in batch
    normalisation and a head of standard deviation 0.01"""


@dataclass(frozen=True)
class Distributed:
    """Training on several processes."""

    sync_batchnorm: bool = leaf(True, Role.RESULT)
    """compute batch statistics over the global batch when there are several ranks"""
    timeout: PositiveInt = leaf(600, Role.EXECUTION)
    """seconds until a collective operation fails when some rank does not join"""
    static_graph: bool = leaf(False, Role.EXECUTION)
    """tell DDP that every step uses the same parameters in the same order"""
    compress: Literal["none", "bf16"] = leaf("none", Role.RESULT)
    """precision of gradients that are sent between ranks: bf16 halves the traffic, at 3 significant digits"""


@dataclass(frozen=True)
class Speed:
    """Options for faster training that change results by rounding alone (docs/speed-options.md)."""

    compile: bool = leaf(False, Role.EXECUTION)
    """compile the networks with torch.compile: takes minutes before the first step"""
    cuda_graphs: bool = leaf(False, Role.EXECUTION)
    """launch the compiled network as one CUDA graph: for small batches, on one GPU"""

    def __post_init__(self) -> None:
        if self.cuda_graphs and not self.compile:
            raise ConfigError("speed.cuda_graphs=true replays what is compiled: it needs speed.compile=true")


@dataclass(frozen=True)
class Log:
    """How often curves and progress are written, and where to."""

    every: PositiveInt = leaf(50, Role.EXECUTION)
    """optimizer steps between two points of the training curves"""
    console_every: PositiveInt = leaf(30, Role.EXECUTION)
    """seconds between two lines of progress when the output is not a terminal"""
    also: tuple[str, ...] = leaf((), Role.EXECUTION)
    """trackers that curves and configuration go to as well: wandb, mlflow, or any file of dist_rmd/trackers
    (docs/runs.md)"""


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoints from which a stopped run resumes."""

    every: PositiveInt = leaf(1, Role.EXECUTION)
    """epochs between two checkpoints"""
    minutes: PositiveFloat = leaf(10.0, Role.EXECUTION)
    """minutes until a checkpoint is written within an epoch"""
    keep: PositiveInt = leaf(2, Role.EXECUTION)
    """number of newest checkpoints to keep, besides the best one"""


@dataclass(frozen=True)
class Weights:
    """Properties of a weights file of another library in `inputs` that the file does not state (docs/weights.md)."""

    model: EncoderName | None = leaf(None, Role.PLACE)
    """encoder of the weights, if tensor names do not determine it, such as resnet18/solo-learn (null: recognised)"""
    mean: tuple[float, ...] | None = leaf(None, Role.PLACE)
    """mean of the channels R, G, B, pixels in 0..1, that normalised the network's images (null: as the file says)"""
    std: tuple[float, ...] | None = leaf(None, Role.PLACE)
    """standard deviation of the channels, likewise"""
    side: PositiveInt | None = leaf(None, Role.PLACE)
    """side to which images are resized for this network, which stays frozen (null: the images' own side)"""


@dataclass(frozen=True)
class Run:
    """Keys of the run itself, and its sections."""

    name: str = leaf("run", Role.EXECUTION)
    """the run folder is <out>/<name>"""
    out: FilePath = leaf("runs", Role.EXECUTION)
    """folder of all runs and of the artefacts that runs share"""
    seed: NonNegativeInt = leaf(0, Role.SEED)
    """seed of weights, batches and augmentation"""
    stages: tuple[str, ...] = leaf(("simsiam", "rgrl"), Role.EXECUTION)
    """stages to train, in this order"""
    inputs: dict[str, FilePath] = leaf({}, Role.PLACE)
    """finished stages of other runs, trained perhaps on other images: {teacher: a run folder or an artefact.pt}; images
    are then normalised as in that run"""
    device: Literal["auto", "cuda", "cpu"] = leaf("auto", Role.EXECUTION)
    """auto: a GPU if there is one, else the CPU"""
    precision: Literal["auto", "bf16", "fp16", "fp32", "fp64"] = leaf("auto", Role.RESULT)
    """auto: bf16 on GPUs, fp32 on CPUs; fp16 uses loss scaling; fp64 is for comparisons without rounding errors"""
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    noise: Noise = field(default_factory=Noise)
    model: Model = field(default_factory=Model)
    dist: Distributed = field(default_factory=Distributed)
    speed: Speed = field(default_factory=Speed)
    log: Log = field(default_factory=Log)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    weights: Weights = field(default_factory=Weights)


Schedule = Literal["cosine", "restarts", "step", "constant"]


@dataclass(frozen=True)
class Optimization:
    """The optimizer and its schedule: the part of a stage's section that all stages share."""

    seed: NonNegativeInt | None = leaf(None, Role.SEED)
    """seed of this stage (the run's seed when null), so that runs with several seeds can share one teacher"""
    epochs: PositiveInt = 200
    """passes over the training images"""
    batch_size: PositiveInt = 64
    """global batch: images per optimizer step, over all ranks"""
    lr: PositiveFloat = 0.1
    """initial learning rate"""
    optimizer: Literal["sgd", "adamw"] = leaf("sgd", Role.RESULT, added=True)
    """sgd; adamw: decoupled weight decay, betas 0.9 and 0.999; its lr is usually some 0.001, its weight_decay 0.05"""
    lr_scaling: bool = False
    """multiply lr by batch_size / 256"""
    momentum: NonNegativeFloat = 0.9
    """momentum of SGD"""
    nesterov: bool = leaf(False, Role.RESULT, added=True)
    """Nesterov's momentum in SGD (Sutskever et al. 2013): the gradient counts once more in each step"""
    weight_decay: NonNegativeFloat = 5e-4
    """weight decay, on all parameters"""
    schedule: Schedule = "cosine"
    """cosine: decay to zero over all steps; restarts: a cosine from each of `milestones` to the next, down to `gamma`
    times the initial rate; step: multiply by `gamma` at each of `milestones`"""
    milestones: tuple[NonNegativeInt, ...] = ()
    """epochs after which schedule=step multiplies the learning rate by `gamma`, or schedule=restarts restarts"""
    gamma: PositiveFloat = 0.1
    """factor of schedule=step; lowest factor of schedule=restarts"""
    warmup_epochs: NonNegativeFloat = 0.0
    """epochs in which the learning rate grows linearly from zero"""
    grad_clip: PositiveFloat | None = None
    """clip the gradient to this norm (no clipping when null)"""
    eval_every: PositiveInt = 1
    """epochs between two evaluations; the last epoch is always evaluated"""

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov=true needs a momentum above 0")


@dataclass(frozen=True)
class LabelledOptimization(Optimization):
    """The same of a stage that learns given labels, of which data.holdout keeps some apart."""

    patience: PositiveInt | None = leaf(None, Role.RESULT, added=True)
    """end the stage when val/top1, of the labels held out by data.holdout, has not risen for so many epochs (never when
    null); the schedule of the learning rate does not know of it"""


Section = TypeVar("Section")


@dataclass(frozen=True)
class Config(Run):
    """A whole configuration: the keys of the run, and the sections of all stages."""

    sections: Mapping[str, Any] = field(default_factory=dict)
    """section name -> frozen dataclass"""

    def section(self, kind: type[Section]) -> Section:
        """The section of this class.  Raises AttributeError when no stage declares it."""
        return _section(self.sections, kind, f"no stage declares a section {kind.__name__}")

    @property
    def tree(self) -> dict[str, Any]:
        """Nested values by name: the keys of the run, and the sections."""
        return {name: value for name, value in vars(self).items() if name != "sections"} | dict(self.sections)

    @property
    def leaves(self) -> dict[str, Leaf]:
        """All dotted keys, such as task.lr, with their values and roles."""
        return {key.removeprefix("sections."): leaf for key, leaf in leaves(self)}

    def only(self, sections: Mapping[str, type]) -> "StageConfig":
        """The part of the configuration that a stage with these sections may read."""
        return StageConfig(self.seed, self.model, self.augment, {name: self.sections[name] for name in sections})


@dataclass(frozen=True)
class StageConfig:
    """The part of a configuration that one stage may read.

    The hash of the stage's artefact is made of this part.  If a stage read anything else, a change there would not
    change the hash, and the stage would reuse a stale artefact; so reading anything else is an AttributeError.
    """

    seed: int
    """seed of the stage's weights, batches and augmentation"""
    model: Model
    """the encoder that the stage trains"""
    augment: Augment
    sections: Mapping[str, Any]
    """the sections that the stage declares: name -> frozen dataclass"""

    def section(self, kind: type[Section]) -> Section:
        """The section of this class.  Raises AttributeError when the stage does not declare it."""
        return _section(self.sections, kind, self._refusal(f"section {kind.__name__}"))

    def _refusal(self, what: str) -> str:
        declared = ", ".join(self.sections) or "none"
        return (
            f"a stage that declares the sections {declared} must not read {what} of the configuration: its artefact's "
            "key would not change with it; declare the section in `Stage.sections`"
        )

    if not TYPE_CHECKING:  # hidden from mypy, which would else accept any attribute

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(name if name.startswith("__") else self._refusal(f"`{name}`"))


def _section(sections: Mapping[str, Any], kind: type[Section], otherwise: str) -> Section:
    for section in sections.values():
        if type(section) is kind:
            return section
    raise AttributeError(otherwise)


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain dicts, lists and scalars, as in config.yaml and in artefacts."""
    return plain(config.tree)
