"""Protocols: what the engine needs of a stage and of its batches.

The engine does not import stages, and stages do not import these protocols; mypy checks that they fit.
"""

from collections.abc import Generator, Mapping
from typing import Protocol, TypeVar

from torch import Tensor, nn

from dist_rmd.config import Optimization
from dist_rmd.engine.clock import Clock


class Samples(Protocol):
    """One rank's part of a global batch."""

    @property
    def indices(self) -> Tensor:
        """b int64: positions of the samples in the .beton file, named in the error when a loss is not finite."""
        ...


B = TypeVar("B", bound=Samples)
B_co = TypeVar("B_co", bound=Samples, covariant=True)
B_contra = TypeVar("B_contra", bound=Samples, contravariant=True)


class Batches(Protocol[B_co]):
    """The batches of a training, epoch by epoch."""

    def __len__(self) -> int:
        """Optimizer steps in an epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Generator[B_co]:
        """The batches of epoch `epoch` from global batch `start` on."""
        ...


class Checkpointed(Protocol):
    """The parts of a stage that a checkpoint holds."""

    @property
    def net(self) -> nn.Module:
        """The trained network, not wrapped by DDP."""
        ...

    @property
    def averages(self) -> Mapping[str, nn.Module]:
        """Networks without gradient that the stage itself changes, by name."""
        ...

    @property
    def memory(self) -> Mapping[str, Tensor]:
        """Tensors that the stage itself changes in place, by name."""
        ...

    @property
    def optimization(self) -> Optimization:
        """The stage's optimizer, schedule and number of epochs."""
        ...

    def eval_nets(self) -> dict[str, nn.Module]:
        """Networks of `net` and `averages` to evaluate, by name; the stage's score is that of the network ""."""
        ...


class Trainable(Checkpointed, Protocol[B_contra]):
    """A stage that learns from batches of type B (dist_rmd.stages.base.TrainingStage says what each part means)."""

    @property
    def name(self) -> str: ...

    def start_epoch(self) -> None: ...

    def trained(self, batch: B_contra) -> nn.Module | None: ...

    def losses(self, net: nn.Module, batch: B_contra) -> dict[str, Tensor]: ...

    def after_step(self, clock: Clock) -> None: ...
