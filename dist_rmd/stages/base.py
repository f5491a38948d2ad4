"""What every stage is: a training, which the engine carries out, or a computation over images.

Stages meet only through artefacts: plain dictionaries of tensors, strings and numbers, written when a stage ends.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from dist_rmd.config import Config, Model, Optimization, StageConfig
from dist_rmd.data.batch import Batch
from dist_rmd.data.labels import LabelView
from dist_rmd.data.source import Source


@dataclass(frozen=True)
class DataShape:
    """All that a network must know of the data."""

    classes: int
    side: int


class Batches(Protocol):
    """What a training goes through: a Loader, or something that puts several together."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Any: ...


class Stage:
    """Base of all stages.

    `inputs` are the artefacts of the stages it `needs`, by name.  Initial weights come from torch's global generator,
    which the caller seeds.
    """

    sections: ClassVar[Mapping[str, type]] = {}
    """sections of the configuration that determine the result: name -> frozen dataclass.  It may read no others"""
    recipe: ClassVar[str]
    """the one of them that has the stage's `seed`"""
    labels: ClassVar[Literal["given", "true", "none"]] = "given"
    """which labels the images come with.  given: those of the run, noise and all.  true: the dataset's own, of all its
    images.  none: none that the result would depend on.  One artefact of the latter two serves all noise"""
    evaluation: ClassVar[str | None] = None
    """what is measured on the test images: the public function of dist_rmd/evaluation/<evaluation>.py, if anything"""

    def __init__(self, config: StageConfig, shape: DataShape, inputs: Mapping[str, Any]):
        raise NotImplementedError

    @classmethod
    def scope(cls, config: Config) -> StageConfig:
        """What the stage may read of a whole configuration, with its own seed and model in place of the run's."""
        scope = config.only(cls.sections)
        return replace(scope, seed=cls.seed(scope), model=cls.model(scope))

    @classmethod
    def needs(cls, config: StageConfig) -> tuple[str, ...]:
        """Stages whose artefacts this one starts from."""
        return ()

    @classmethod
    def model(cls, config: StageConfig) -> Model:
        """Which encoder is trained: that of the run, unless the stage has a choice of its own."""
        return config.model

    @classmethod
    def seed(cls, config: StageConfig) -> int:
        """The seed of its weights, batches and augmentation: its own, or else the run's."""
        own = config.sections[cls.recipe].seed
        return config.seed if own is None else own

    @classmethod
    def per_class(cls, config: StageConfig) -> int | None:
        """labels = "true": how many images of every class, the first ones, it learns (data.per_class when None)."""
        return None

    @classmethod
    def check(cls, config: StageConfig) -> None:
        """Raise ConfigError for values that only this stage can judge.  Called before any work."""

    @property
    def name(self) -> str:
        """The name of the stage's file, as in `stages` of a configuration."""
        return type(self).__module__.rpartition(".")[2]

    def frozen(self) -> list[nn.Module]:
        """Networks that are not trained; they are moved to the device and stay in evaluation mode."""
        return []

    def artefact(self) -> dict[str, Any]:
        """What later stages and users load: {"encoder": state_dict, ...}, plain containers only."""
        raise NotImplementedError


class Training(Stage):
    """A stage that the engine trains: what is trained, on which batches, with which loss."""

    recipe: ClassVar[str]
    """the section that is an Optimization"""
    evaluation = "accuracy"
    views: tuple[str, ...] = ("weak",)
    """the kinds of augmented views in each batch (dist_rmd.data.views)"""

    net: nn.Module
    """exactly what is trained and wrapped by DDP; frozen networks are other attributes"""
    optimization: Optimization

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for SGD.  A group with `constant_lr=True` keeps the initial learning rate.

        One with `adam=RATE` is Adam's, at this constant learning rate.
        """
        return [{"params": list(self.net.parameters())}]

    def batches(self, source: Source, labels: LabelView, seed: int) -> Batches:
        """What it is trained on.  Called once its networks are on the device."""
        return source.training(labels, self.views, self.optimization.batch_size, seed)

    def memory(self) -> dict[str, Tensor]:
        """Tensors that the stage itself changes as it trains (a value for each sample, a queue): the same on all ranks.

        They are saved with the network, and written back in place when a run goes on.
        """
        return {}

    def start_epoch(self) -> None:
        """Called on all ranks before the first batch of every epoch, and not where a run goes on within one."""

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of this rank (0-d): "loss" is differentiated, every other is logged under its name.

        Forward through `net` alone, and once, never through `self.net`: DDP synchronises gradients of `net`'s forward
        only.  The mean over ranks of each term is its value for the global batch (see Batch.share).
        """
        raise NotImplementedError

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """One line for the user when logged means, or what an evaluation has measured, look wrong, else None."""
        return None


class Computation(Stage):
    """A stage that trains nothing: it works something out from images, once."""

    def compute(self, source: Source, labels: LabelView, proceed: Callable[[float], None]) -> dict[str, float]:
        """Do it, on all ranks; returns what is worth a place among the run's metrics, by tag.

        `proceed` is told every few seconds how much is done, from 0 to 1, and raises where the work is to be given up.
        """
        raise NotImplementedError

    def pretend(self, labels: LabelView) -> None:
        """Come to a result of the right form without work, for a dry run."""
        raise NotImplementedError

    def summary(self) -> str:
        """The result in one line."""
        raise NotImplementedError


def batch_mean(values: Tensor, batch: Batch) -> Tensor:
    """Mean of b per-sample values, weighted so that the mean over ranks is the mean over the global batch."""
    return values.mean() * batch.share
