"""The contract of a stage: a training, which the engine carries out, or a computation over images.

A stage sees results of other stages only as artefacts: plain dictionaries of tensors, strings and numbers, written when
a stage ends.  CONTRIBUTING.md shows how to add a stage.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from dist_rmd.config import Config, Model, Optimization, StageConfig
from dist_rmd.data.labels.view import LabelView
from dist_rmd.data.loading.batch import Batch
from dist_rmd.data.loading.loaders import Loaders


@dataclass(frozen=True)
class DataInfo:
    """Facts about a stage's images that are known before any image is read."""

    classes: int
    """C: labels are 0..C-1"""
    side: int
    """S: images are 3 x S x S"""
    images: int
    """N, the number of images that the stage works on: `Batch.rows` are in 0..N-1"""


class Clock(Protocol):
    """Progress of a training (dist_rmd.engine.clock)."""

    step: int
    """optimizer steps made"""
    epoch: int
    """whole epochs done"""


class Batches(Protocol):
    """The batches of a training: a Loader, several loaders combined, or batches of random noise."""

    def __len__(self) -> int:
        """Optimizer steps in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch]:
        """The batches of epoch `epoch` from global batch `start` on."""
        ...


class Stage:
    """Base class of all stages.

    inputs: artefacts of the stages that `needs` names, by stage.
    The constructor draws initial weights from torch's global generator; the caller has seeded this generator.
    """

    sections: ClassVar[Mapping[str, type]] = {}
    """sections of the configuration that the stage reads: name -> frozen dataclass.  Reading another section is an
    AttributeError, because only these sections enter the hash of the artefact"""
    added: ClassVar[frozenset[str]] = frozenset()
    """names of sections that the stage began to read when there were artefacts already.  At its defaults such a section
    stays out of the hash"""
    recipe: ClassVar[str]
    """name of the section that has the stage's `seed`"""
    revision: ClassVar[int] = 0
    """raised when the stage gives other results than before with the same configuration; part of the hash unless 0"""
    labels: ClassVar[Literal["given", "true", "none"]] = "given"
    """labels that the result depends on.  given: the run's noisy labels.  true: the dataset's own labels, of all its
    images.  none: no labels.  An artefact of a stage with "true" or "none" serves runs with any noise"""
    evaluation: ClassVar[str | None] = None
    """how the stage is evaluated on the test images: name of a file of dist_rmd/evaluation; None: not at all"""

    def __init__(self, config: StageConfig, data: DataInfo, inputs: Mapping[str, Any]):
        raise NotImplementedError

    @classmethod
    def uses_scores(cls, config: StageConfig) -> bool:
        """Whether the result depends on scores of its inputs on the test images; these are then part of its key."""
        return False

    @classmethod
    def scope(cls, config: Config) -> StageConfig:
        """The part of a configuration that the stage may read; the stage's own seed and model replace the run's."""
        scope = config.only(cls.sections)
        return replace(scope, seed=cls.seed(scope), model=cls.model(scope))

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        """Names of the stages whose artefacts this stage needs as inputs."""
        return ()

    @classmethod
    def model(cls, config: StageConfig) -> Model:
        """The encoder to train: by default the run's encoder; a stage with a choice of its own overrides this."""
        return config.model

    @classmethod
    def seed(cls, config: StageConfig) -> int:
        """Seed of weights, batches and augmentation: the stage's own seed if its section has one, else the run's."""
        own = config.sections[cls.recipe].seed
        return config.seed if own is None else own

    @classmethod
    def per_class(cls, config: StageConfig) -> int | None:
        """Only for labels = "true": train on the first N images of every class (data.per_class of them when None)."""
        return None

    @classmethod
    def files(cls, config: StageConfig) -> dict[str, str]:
        """Paths of files that it reads, each by the key that names it: their content enters its artefact's key."""
        return {}

    @classmethod
    def check(cls, config: StageConfig) -> None:
        """Raise ConfigError for values that only this stage can check.  Called before any work."""

    @property
    def name(self) -> str:
        """Name of the stage: the name of its file, as in the key `stages`."""
        return type(self).__module__.rpartition(".")[2]

    def frozen(self) -> list[nn.Module]:
        """Networks that never change, such as a teacher; the engine moves them to the device in evaluation mode."""
        return []

    def artefact(self) -> dict[str, Any]:
        """The stage's result for later stages and users: {"encoder": state_dict, ...}, plain containers only."""
        raise NotImplementedError


class TrainingStage(Stage):
    """A stage that the engine trains: what is trained, on which batches, with which loss.

    A stage must give `net`, `optimization`, `losses` and `artefact`.  A method that needs more overrides:

    several networks    `net` as an nn.ModuleDict; `param_groups` gives each network its optimizer, and `trained` says
                        which network a step updates
    a moving average    `averages`, updated in `after_step`; `eval_nets` gives it to the evaluation
    a value per image   `memory`, N rows, read at `batch.rows` and written by collectives.write_rows
    a pass over images  `prepare`, before the first batch: scores, prototypes, a selection of images
    no images           `views = ()`, and `batches` are source.latents: noise; `pictures` shows what is made of it
    """

    recipe: ClassVar[str]
    """name of the section that is an Optimization"""
    evaluation = "accuracy"
    views: tuple[str, ...] = ("weak",)
    """kinds of augmented views in each batch (dist_rmd.data.augment.views); () for a stage that needs no images"""

    net: nn.Module
    """the trained network, exactly as DDP wraps it; DDP wraps each network of an nn.ModuleDict separately"""
    averages: Mapping[str, nn.Module] = MappingProxyType({})
    """networks without gradient that the stage itself updates (models/average.py), by name: in evaluation mode, and
    part of checkpoints"""
    memory: Mapping[str, Tensor] = MappingProxyType({})
    """tensors that the stage itself changes in place during training (a value for each image, a queue), by name.  They
    must be the same on all ranks.  Set once, in __init__: the engine moves them to the device (float32 becomes float64
    if the networks are float64), saves them in checkpoints, and restores them in place when a run resumes"""
    optimization: Optimization

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups, as torch's optimizers take them.

        A group may also have `optimizer` ("sgd", "adamw" or "adam"), `lr` (the initial learning rate), `momentum` and
        `weight_decay`; what a group leaves out comes from the stage's section.  AdamW does not use the momentum, and
        Adam uses torch's defaults for both.  The learning rate follows the section's schedule, unless `constant_lr`
        is True.  Where `begins_anew` is True, the optimizer forgets its moments at the start of every epoch.
        """
        return [{"params": list(self.net.parameters())}]

    def prepare(self, source: Loaders, labels: LabelView) -> None:
        """Make a pass over the images of `labels` before training: scores, prototypes, a selection of images.

        Called on all ranks at every start, once, before `batches`; networks and memory are on the device by then.
        """

    def batches(self, source: Loaders, labels: LabelView, seed: int) -> Batches:
        """The batches of the training: by default all images of `labels`."""
        return source.training(labels, self.views, self.optimization.batch_size, seed)

    def start_epoch(self) -> None:
        """Called on all ranks before the first batch of every epoch, but not when a run resumes within an epoch."""

    def trained(self, batch: Batch) -> nn.Module | None:
        """The network of `net` that this step updates; None: all networks.  The others get no gradient."""
        return None

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of this rank.  The engine differentiates "loss" (0-d) and logs every term under its name.

        Call a network that the step updates through `net`, and only once: DDP synchronises gradients of `net`'s forward
        pass alone, and a call through `self.net` would leave them unsynchronised in silence.  Call any other network
        through `self.net`.

        A 0-d term: its mean over ranks must be the value for the global batch (see Batch.share); the mean over steps is
        logged.  A term of two numbers (part, whole), counted over this rank's samples: the sum of all parts divided by
        the sum of all wholes is logged, and nothing if this sum is 0.
        """
        raise NotImplementedError

    def after_step(self, clock: Clock) -> None:
        """Called on all ranks after every optimizer step; `clock.step` steps have been made."""

    def eval_nets(self) -> dict[str, nn.Module]:
        """Networks to evaluate, by name.  The stage's score is the accuracy of the network "".

        Metrics of other networks have the suffix _<name>, as in test/top1_student.
        """
        return {"": self.net}

    def pictures(self) -> Tensor | None:
        """Images that the stage has made, to be looked at beside each evaluation: n x 3 x S x S, normalised; or None.

        Called on all ranks, which come to the same ones.
        """
        return None

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """One line for the user when logged means or metrics of an evaluation look wrong, else None."""
        return None


class ClassifierStage(TrainingStage):
    """A training of one or several classifiers, each an encoder with a linear head."""

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        if metrics.get("test/predicted_classes") != 1:
            return None
        return (
            "the network has collapsed: it takes all test images for one class; "
            f"{self.recipe}.grad_clip=5 or a smaller {self.recipe}.lr may cure it"
        )

    def artefact(self) -> dict[str, Any]:
        """Encoder and head of the network "", and under "others" those of the other evaluated networks."""
        parts = {
            name: {part: net.get_submodule(part).state_dict() for part in ("encoder", "head")}
            for name, net in self.eval_nets().items()
        }
        main = parts.pop("")
        return {**main, "others": parts} if parts else main


class ComputationStage(Stage):
    """A stage that trains nothing: it computes its result from images, once."""

    def compute(self, source: Loaders, labels: LabelView, proceed: Callable[[float], None]) -> dict[str, float]:
        """Compute the result, on all ranks.  Returns metrics by tag.

        proceed: to be called every few seconds with the share that is done, 0 to 1; raises when the run is to stop.
        """
        raise NotImplementedError

    def pretend(self, labels: LabelView) -> None:
        """Make a result of the right form without computing it, for a dry run."""
        raise NotImplementedError

    @classmethod
    def summary(cls, metrics: Mapping[str, float]) -> str:
        """One line for the user about the metrics that `compute` has returned."""
        raise NotImplementedError


def batch_mean(values: Tensor, batch: Batch) -> Tensor:
    """Mean of b per-sample values, weighted so that the mean over ranks is the mean over the global batch."""
    return values.mean() * batch.share


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """b x C, 1 at the labels, of the type and device of `like`, b x C.  F.one_hot would wait for the device."""
    return torch.zeros_like(like).scatter_(1, labels[:, None], 1)


def fitted(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Terms that show memorisation: of the right, and of the wrong given labels, (number fitted, number in total).

    A label is fitted when the network predicts it.  logits: b x C, as used for this step's loss.  The numbers are
    float32, as losses are, so that one conversion serves all terms.  Returns {} when the true labels are unknown.
    """
    if batch.right is None:
        return {}
    hit, kinds = logits.argmax(dim=1) == batch.labels, torch.stack([batch.right, ~batch.right])
    right, wrong = torch.stack([kinds & hit, kinds], dim=1).sum(dim=2, dtype=torch.float32)
    return {"fitted_right": right, "fitted_wrong": wrong}
