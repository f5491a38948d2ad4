"""What every stage offers the engine: what is trained, on which views, with which loss.  The engine does the training.

Stages meet only through artefacts: plain dictionaries of tensors, strings and numbers, written when a stage ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from dist_rmd.config import Config, Model, Optimization
from dist_rmd.data.batch import Batch


@dataclass(frozen=True)
class DataShape:
    """All that a network must know of the data."""

    classes: int
    side: int


class Stage:
    """Base of all stages.

    `inputs` are the artefacts of the stages it `needs`, by name.  Initial weights come from torch's global generator,
    which the caller seeds.
    """

    sections: ClassVar[Mapping[str, type]] = {}
    """sections of the configuration that determine the result: name -> frozen dataclass"""
    recipe: ClassVar[str]
    """the one of them that is an Optimization"""
    labels: ClassVar[Literal["given", "true", "none"]] = "given"
    """which labels the training images come with.  given: those of the run, noise and all.  true: the dataset's own, of
    all its images.  none: none that the result would depend on.  One artefact of the latter two serves all noise"""
    views: tuple[str, ...] = ("weak",)
    """the kinds of augmented views in each batch (dist_rmd.data.views)"""
    evaluation: ClassVar[str] = "accuracy"
    """what is measured on the test images: the public function of dist_rmd/evaluation/<evaluation>.py"""

    net: nn.Module
    """exactly what is trained and wrapped by DDP; frozen networks are other attributes"""
    optimization: Optimization

    def __init__(self, config: Config, shape: DataShape, inputs: Mapping[str, Any]):
        raise NotImplementedError

    @classmethod
    def needs(cls, config: Config) -> tuple[str, ...]:
        """Stages whose artefacts this one starts from."""
        return ()

    @classmethod
    def model(cls, config: Config) -> Model:
        """Which encoder is trained: that of the run, unless the stage has a choice of its own."""
        return config.model

    @classmethod
    def check(cls, config: Config) -> None:
        """Raise ConfigError for values that only this stage can judge.  Called before any work."""

    @property
    def name(self) -> str:
        """The name of the stage's file, as in `stages` of a configuration."""
        return type(self).__module__.rpartition(".")[2]

    def param_groups(self) -> list[dict[str, Any]]:
        """Parameter groups for SGD.  A group with `constant_lr=True` keeps the initial learning rate."""
        return [{"params": list(self.net.parameters())}]

    def frozen(self) -> list[nn.Module]:
        """Networks that only serve the losses; they are moved to the device and stay in evaluation mode."""
        return []

    def memory(self) -> dict[str, Tensor]:
        """Tensors that the stage itself changes as it trains (a value for each sample, a queue): the same on all ranks.

        They are saved with the network, and written back in place when a run goes on.
        """
        return {}

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of this rank (0-d): "loss" is differentiated, every other is logged under its name.

        Forward through `net` alone, never through `self.net`: DDP synchronises gradients of `net`'s forward only.
        The mean over ranks of each term is its value for the global batch (see Batch.share).
        """
        raise NotImplementedError

    def warning(self, metrics: Mapping[str, float]) -> str | None:
        """One line for the user when logged means, or what an evaluation has measured, look wrong, else None."""
        return None

    def artefact(self) -> dict[str, Any]:
        """What later stages and users load: {"encoder": state_dict, ...}, plain containers only."""
        raise NotImplementedError


def batch_mean(values: Tensor, batch: Batch) -> Tensor:
    """Mean of b per-sample values, weighted so that the mean over ranks is the mean over the global batch."""
    return values.mean() * batch.share
